"""What viewers of a platform are told: the state, then what changed; what is wrong with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.waiting import LIMIT

from tempos_controller.documents import Documents
from tempos_controller.force.engine import NotDone
from tempos_controller.watch.feed import Feed
from tempos_controller.watch.findings import CHECKS, STATES, of_parts, of_workflow

from .test_platform_in_force import ALL, World

TRIGGER = {"name": "t", "away": False, "balanced": True, "why_not": "", "state": "up", "dropped": {}, "in": 9}
AT = {"node": "n", "away": False, "fault": "", "apart": ""}
STEP = {"name": "s", "drift": 0, "failures": {}, "in": 9, "at": [AT]}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "state")
    for part in world.parts:
        await part.start()
    yield world
    for part in world.parts:
        await part.stop()


async def told(stream: AsyncIterator[bytes]) -> tuple[str, dict[str, Any]]:
    event = (await asyncio.wait_for(anext(stream), LIMIT)).decode()
    name, _, data = event.strip().partition("\n")
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


async def test_the_state_and_then_what_changed(world: World) -> None:
    async with world.controller() as engine:
        await engine.apply(ALL, "all")
        feed = Feed(engine, Documents(engine, "it"))
        try:
            first, second = feed.look(), feed.look()
            name, state = await told(first)
            assert (name, state["wrong"]) == ("state", [])
            assert (await told(second))[1] == state
            (workflow,) = state["workflows"]
            assert [each["name"] for each in workflow["triggers"]] == ["t"]
            assert [each["group"] for each in workflow["steps"]] == ["w/f"]
            assert {each["name"]: each["state"] for each in state["parts"]} == {
                "broker": "running", "invoker n": "running", "trigger n": "running",
            }  # fmt: skip
            paths = state["paths"]
            while not paths:
                # The broker had not been asked yet.
                paths = (await told(first))[1].get("paths", {})
            assert paths == {name: ["slow", "no fast path"] for name in ("in", "out")}
            assert state["changes"][-1]["text"].startswith("all is in force: + topic in: class SQ")

            world.invoker.away = True
            wrong: list[dict[str, Any]] = []
            while not wrong:
                name, step = await told(first)
                assert name == "step"
                wrong = step.get("wrong", [])
            assert (wrong[0]["code"], wrong[0]["subject"], wrong[0]["now"]) == ("TD601", "invoker n", True)
            assert wrong[0]["since"] <= step["at"]
            world.invoker.away = False
            while wrong:
                wrong = (await told(first))[1].get("wrong", wrong)

            await engine.apply({"workflow": {"w": None}}, "gone")
            gone: list[str] = []
            while not gone:
                gone = (await told(first))[1]["gone"]
            assert gone == ["w"]
        finally:
            await feed.close()


async def test_a_change_that_was_taken_back_is_told_until_another_is_in_force(world: World) -> None:
    async with world.controller() as engine:
        feed = Feed(engine, Documents(engine, "it"))
        world.trigger.refuse = lambda document: "no such kind"
        with pytest.raises(NotDone):
            await engine.apply(ALL, "all")
        try:
            stream = feed.look()
            _, state = await told(stream)
            assert [(each["code"], each["cause"]) for each in state["wrong"]] == [
                ("TD609", "all: trigger n: no such kind")
            ]
            world.trigger.refuse = lambda document: None
            await engine.apply(ALL, "all")
            wrong = state["wrong"]
            while wrong:
                wrong = (await told(stream))[1].get("wrong", wrong)
        finally:
            await feed.close()


@pytest.mark.parametrize(
    ("trigger", "step", "code"),
    [
        ({}, {}, None),
        ({"balanced": False}, {}, "TD603"),
        ({"why_not": "the broker is away"}, {}, "TD606"),
        ({"state": "closed"}, {}, "TD606"),
        ({"dropped": {"full": 3}}, {}, "TD605"),
        ({"away": True, "state": "closed"}, {}, None),
        ({}, {"drift": 2}, "TD603"),
        ({}, {"failures": {"error": 2}}, "TD604"),
        ({}, {"at": [{**AT, "fault": "no module named m"}]}, "TD607"),
        ({}, {"at": [{**AT, "apart": "refused"}]}, "TD608"),
        ({}, {"at": [{**AT, "away": True, "fault": "no module named m"}]}, None),
    ],
)
def test_what_is_wrong_with_a_workflow(
    trigger: dict[str, Any], step: dict[str, Any], code: str | None
) -> None:
    found = of_workflow({"name": "w", "triggers": [{**TRIGGER, **trigger}], "steps": [{**STEP, **step}]})
    assert [each.check for each in found] == ([code] if code else [])


def test_what_is_wrong_with_parts() -> None:
    parts = [
        {"name": "broker", "state": "running", "why": ""},
        {"name": "invoker n", "state": "away", "why": "it ended", "log": "/var/log/it"},
        {"name": "trigger n", "state": "away", "why": "no route", "api": "http://10.0.0.1:9994"},
    ]
    found = list(of_parts(parts, {"topics 0": "there already"}))
    assert [(each.check, each.fix) for each in found] == [
        ("TD601", "tail -n 30 /var/log/it"),
        ("TD601", "curl -s http://10.0.0.1:9994/v1/health"),
        ("TD602", ""),
    ]
    assert {each.code for each in CHECKS} >= STATES
