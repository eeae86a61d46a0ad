"""The operations of an HTTP API: what they take, what they say of it, and that both are one."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tempos_broker.api import describe
from tempos_daemon.operations import Body, Choice, Number, Operations, Text, Truth

PLACES = {"patience": Number("seconds", most=60, default=5.0), "word": Choice(("a", "b")), "wait": Truth()}


def api() -> Operations:
    made = Operations()

    @made.add("POST", "/v1/{name}", "", body=Body(PLACES, told=("word",)), name=Text(longest=3))
    async def post(name: str, **told: Any) -> dict[str, Any]:
        return {"name": name, **told}

    @made.add("GET", "/v1/{name}", "", name=Text(pattern="^[a-z]+$"), most=Number(whole=True, default=1))
    async def get(name: str, most: int) -> dict[str, Any]:
        return {"name": name, "most": most}

    @made.add("PUT", "/v1/{name}", "", name=Text(), body=Body(PLACES, whole=False))
    async def put(name: str, **told: Any) -> dict[str, Any]:
        return {"name": name, **told}

    return made


async def ask(method: str, path: str, **how: Any) -> tuple[int, Any]:
    transport = httpx.ASGITransport(app=api().application({}))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.request(method, path, **how)
        return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("method", "path", "how", "wanted"),
    [
        ("GET", "/v1/ab", {}, {"name": "ab", "most": 1}),
        ("GET", "/v1/ab?most=7&other=1", {}, {"name": "ab", "most": 7}),
        ("POST", "/v1/ab", {"json": {"word": "a"}},
         {"name": "ab", "patience": 5.0, "word": "a", "wait": False}),
        ("POST", "/v1/ab", {"json": {"word": "b", "patience": 60, "wait": True}},
         {"name": "ab", "patience": 60, "word": "b", "wait": True}),
        ("PUT", "/v1/ab", {}, {"name": "ab", "patience": 5.0, "word": None, "wait": False}),
    ],
)  # fmt: skip
async def test_what_is_as_described_reaches_its_operation(
    method: str, path: str, how: dict[str, Any], wanted: object
) -> None:
    assert await ask(method, path, **how) == (200, wanted)


@pytest.mark.parametrize(
    ("method", "path", "how", "faults"),
    [
        ("GET", "/v1/AB?most=x", {},
         ["path.name: must be as ^[a-z]+$", "query.most: must be an integer"]),
        ("GET", "/v1/ab?most=-1", {}, ["query.most: must be at least 0"]),
        ("GET", "/v1/ab?most=" + "9" * 5000, {}, ["query.most: must be an integer"]),
        ("POST", "/v1/abcd", {"json": {}},
         ["path.name: must have at most 3 characters", "body.word: is missing"]),
        ("POST", "/v1/ab", {"json": {"word": "c", "patience": "1", "wait": 1, "other": 2}},
         ["body.other: is not known", "body.patience: must be a number", "body.wait: must be true or false",
          "body.word: must be one of a, b"]),
        ("POST", "/v1/ab", {"json": {"word": "a", "patience": 60.5}}, ["body.patience: must be at most 60"]),
        ("POST", "/v1/ab", {"content": b'{"word": "a", "patience": NaN}'},
         ["body.patience: must be at least 0"]),
        ("POST", "/v1/ab", {"json": [1]}, ["body: must be a JSON object"]),
        ("POST", "/v1/ab", {}, ["body: is missing"]),
        ("POST", "/v1/ab", {"content": b"{"}, ["body: is no JSON"]),
        ("POST", "/v1/ab", {"content": b"[" * 60000}, ["body: is no JSON"]),
        ("POST", "/v1/ab", {"content": b"{}", "headers": {"Content-Type": "text/plain"}},
         ["body: must be application/json"]),
    ],
)  # fmt: skip
async def test_every_fault_is_told(method: str, path: str, how: dict[str, Any], faults: list[str]) -> None:
    status, problem = await ask(method, path, **how)
    assert (status, sorted(problem["problems"])) == (422, sorted(faults))


def test_the_description_of_the_brokers_api_is_that_of_its_operations() -> None:
    made = describe.document()
    assert json.loads(describe.FILE.read_text()) == json.loads(json.dumps(made))
    schemas = made["components"]["schemas"]
    named = {
        name.rpartition("/")[2] for name in json.dumps(made).split('"') if name.startswith("#/components")
    }
    assert named <= set(schemas), "every model that is named is described"
