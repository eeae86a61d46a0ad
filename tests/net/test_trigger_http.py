"""Webhooks: real callers, a real broker that is killed and comes back, and bytes that mean no good."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings import http as sdk
from cloudevents.core.v1.event import CloudEvent
from support.ports import free_ports
from support.triggers import (
    LIMIT,
    TOPIC,
    BrokerBeside,
    Failure,
    broker_beside,
    eventually,
    taking,
    trigger_here,
)

from tempos import wire
from tempos_trigger import layout, link
from tempos_trigger.account import NO_BROKER, NO_TOPIC
from tempos_trigger.sources import http
from tempos_trigger.trigger import Trigger


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerBeside]:
    with broker_beside(tmp_path_factory.mktemp("broker")) as started:
        yield started


def hook(listen: str, path: str = "/in", **more: Any) -> dict[str, Any]:
    return {
        "name": path.strip("/*") or "root",
        "kind": "http",
        "topic": TOPIC,
        "listen": listen,
        "path": path,
        **more,
    }


def deployment(broker: BrokerBeside, *endpoints: dict[str, Any]) -> dict[str, Any]:
    return {"broker": broker.table, "endpoint": list(endpoints)}


def address() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


def account(trigger: Trigger, name: str = "in") -> dict[str, Any]:
    status = trigger.endpoints[name].status()
    assert status["balanced"]
    return {key: status[key] for key in ("received", "published", "waiting", "dropped")}


#: As an invoker says it.
FAILED = wire.encode_body(
    {"condition": "refused", "reason": "no\ngood", "id": b"\x00\xff", "step": 7, "function": "count"}
)


async def curl(*arguments: str) -> tuple[int, str]:
    """What curl gets: the code and the body."""
    command = ["curl", "-s", "--max-time", str(LIMIT), "-w", "\n%{http_code}", *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    body, _, code = done.stdout.rpartition("\n")
    return int(code), body


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
async def test_what_callers_get(broker: BrokerBeside, tmp_path: Path) -> None:
    listen = address()

    def answered(body: bytes) -> bytes | Failure | None:
        bad = {b"bad": Failure(b"no such pattern"), b"failed": Failure(FAILED)}
        return b"\x00answer" if body == b"good" else bad.get(body)

    endpoints = [
        hook(listen, "/in"),
        hook(listen, "/ask", answer=True, deadline=LIMIT, content_type="text/plain"),
        hook(listen, "/soon", answer=True, deadline=0.3),
        hook(listen, "/secret", token="s" * 16, limit=10),
        hook(listen, "/below/*", methods=["PUT"]),
        hook(listen, "/only", cloudevents="only"),
    ]
    async with trigger_here(tmp_path, deployment(broker, *endpoints)) as trigger:
        url = f"http://{listen}"
        # Nobody is a member yet.
        assert (await curl("-d", "good", f"{url}/ask"))[0] == 503
        async with taking(broker, answered) as taken:
            assert await curl("-d", "hello", f"{url}/in?query=1") == (202, "")
            assert await curl("-d", "good", f"{url}/ask") == (200, "\x00answer")
            code, body = await curl("-d", "bad", f"{url}/ask")
            assert (code, "no such pattern" in json.loads(body)["detail"]) == (502, True)
            code, body = await curl("-d", "failed", f"{url}/ask")
            problem = json.loads(body)
            assert (code, problem["detail"]) == (422, "the function count failed: refused: no; good")
            assert (problem["condition"], problem["id"], problem["step"]) == ("refused", "00ff", "7")
            assert (await curl("-d", "silent", f"{url}/soon"))[0] == 504
            assert (await curl("-d", "x", f"{url}/secret"))[0] == 401
            right = ["-H", f"Authorization: Bearer {'s' * 16}"]
            assert (await curl(*right, "-d", "fits", f"{url}/secret"))[0] == 202
            assert (await curl(*right, "-d", "x" * 11, f"{url}/secret"))[0] == 413
            chunked = [*right, "-H", "Transfer-Encoding: chunked", "-d", "x" * 11]
            assert (await curl(*chunked, f"{url}/secret"))[0] == 413
            assert (await curl("-T", "-", f"{url}/below/a/b"))[0] == 202
            assert (await curl("-d", "x", f"{url}/below/a"))[0] == 405
            assert (await curl("-d", "x", f"{url}/nothing"))[0] == 404
            code, body = await curl("-d", "x", f"{url}/only")
            assert (code, "no CloudEvent" in json.loads(body)["problems"][0]) == (400, True)
            # An event is a datagram; this one is larger than any.
            big = tmp_path / "big"
            big.write_bytes(b"x" * 65_530)
            assert (await curl("--data-binary", f"@{big}", f"{url}/in"))[0] == 413
            expected = Counter([b"hello", b"good", b"bad", b"failed", b"silent", b"fits", b""])
            await taken.until(lambda: taken.bodies == expected)
        assert account(trigger) == {"received": 2, "published": 1, "waiting": 0, "dropped": {"too_large": 1}}
        assert account(trigger, "secret")["dropped"] == {"unauthorized": 1, "too_large": 2}
        answers = trigger.endpoints["ask"].status()["answers"]
        assert answers == {
            "requests": 4, "answered": 1, "timeouts": 0, "failed": {"error": 2, "no_member": 1}, "waiting": 0,
        }  # fmt: skip
        answers = trigger.endpoints["soon"].status()["answers"]
        assert (answers["requests"], answers["timeouts"]) == (1, 1)


@pytest.mark.parametrize("silent", [False, True], ids=["at once", "while the broker was silent"])
async def test_a_topic_that_is_made_anew_costs_nobody_an_answer(
    broker: BrokerBeside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    # However long it takes here.
    for name in ("MADE_ANEW", "ANSWERS_WITHIN"):
        monkeypatch.setattr(link, name, LIMIT)
    listen = address()
    endpoints = [hook(listen, deadline=LIMIT), {**hook(listen, "/never", deadline=LIMIT), "topic": "never"}]
    try:
        async with (
            trigger_here(tmp_path, deployment(broker, *endpoints)) as trigger,
            httpx.AsyncClient(base_url=f"http://{listen}", timeout=LIMIT) as client,
        ):
            assert (await client.post("/in", content=b"before")).status_code == 202
            if silent:
                monkeypatch.setattr(link, "ANSWERS_WITHIN", 0.1)
                broker.send(signal.SIGSTOP)
                await eventually(lambda: (trigger.endpoints["in"].why_not or ("",))[0] == NO_BROKER)
                monkeypatch.setattr(link, "ANSWERS_WITHIN", LIMIT)
            broker.reload(None)
            broker.send(signal.SIGCONT)
            await eventually(lambda: (trigger.endpoints["in"].why_not or ("",))[0] == NO_TOPIC)
            # What never was there is not waited for.
            assert (await client.post("/never", content=b"")).status_code == 503
            asked = Counter[str]()

            async def count(step: str, info: object) -> None:
                asked[step] += 1

            callers = [
                asyncio.create_task(client.post("/in", content=b"meanwhile", extensions={"trace": count}))
                for _ in range(3)
            ]
            await eventually(lambda: asked["http11.receive_response_headers.started"] == 3)
            broker.reload(9)
            assert [answer.status_code for answer in await asyncio.gather(*callers)] == [202] * 3
            async with taking(broker) as taken:
                assert (await client.post("/in", content=b"behind")).status_code == 202
                await taken.until(lambda: taken.bodies[b"behind"] == 1)
            # Another number while it runs: nobody has to wait even for that.
            broker.reload(11)
            async with taking(broker) as taken:
                while not taken.bodies:
                    assert (await client.post("/in", content=b"elsewhere")).status_code == 202
            told = account(trigger)
            assert (told["published"], told["dropped"]) == (told["received"], {})
    finally:
        broker.send(signal.SIGCONT)
        broker.reload(7)


async def test_more_at_a_time_than_may_wait_are_told_so(broker: BrokerBeside, tmp_path: Path) -> None:
    listen = address()
    asked = hook(listen, answer=True, buffer=3, deadline=3.0)
    bare = hook(listen, "/bare", answer=True, topic="bare")
    async with (
        trigger_here(tmp_path, deployment(broker, asked, bare)) as trigger,
        taking(broker) as taken,
        httpx.AsyncClient(base_url=f"http://{listen}", timeout=LIMIT) as client,
    ):
        waiting = [asyncio.create_task(client.post("/in", content=b"silent")) for _ in range(3)]
        await taken.count(3)
        refused = await client.post("/in", content=b"one more")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "3 signals wait already" in refused.json()["detail"]
        assert [each.status_code for each in await asyncio.gather(*waiting)] == [504] * 3
        assert account(trigger) == {"received": 4, "published": 3, "waiting": 0, "dropped": {"queue_full": 1}}
        # To a raw topic nobody can answer.
        refused = await client.post("/bare", content=b"x")
        assert (refused.status_code, "is raw" in refused.json()["detail"]) == (503, True)
        assert not trigger.ready


async def test_values_of_the_path_make_the_topic(broker: BrokerBeside, tmp_path: Path) -> None:
    listen = address()
    there = {**hook(listen, "/{which}"), "name": "in", "topic": "+", "deadline": LIMIT}
    async with (
        trigger_here(tmp_path, deployment(broker, there)) as trigger,
        taking(broker) as taken,
        httpx.AsyncClient(base_url=f"http://{listen}", timeout=LIMIT) as client,
    ):
        for path, code in (
            ("/signals", 202),
            ("/nothing", 404),
            ("/a%2Fb", 404),
            ("/%23", 404),
            ("/signals", 202),
        ):
            answer = await client.post(path, content=path)
            assert answer.status_code == code, answer.text
        assert "no topic can be called so" in (await client.post("/+", content=b"")).json()["detail"]
        await taken.until(lambda: taken.bodies == {b"/signals": 2})
        dropped = {"no_topic": 1, "malformed": 3}
        assert account(trigger) == {"received": 6, "published": 2, "waiting": 0, "dropped": dropped}
        # Nobody can have the broker asked for more topics at a time than are kept.
        answers = await asyncio.gather(*(client.post(f"/none{number}", content=b"") for number in range(300)))
        assert {answer.status_code for answer in answers} == {404}
        assert trigger.ready


async def test_each_event_of_a_batch_counts_by_itself(broker: BrokerBeside, tmp_path: Path) -> None:
    listen = address()
    endpoints = [hook(listen, limit=1 << 20), hook(listen, "/ask", answer=True)]
    headers = {"Content-Type": "application/cloudevents-batch+json"}

    def event(**more: object) -> dict[str, object]:
        return {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", **more}

    async with (
        trigger_here(tmp_path, deployment(broker, *endpoints)) as trigger,
        taking(broker) as taken,
        httpx.AsyncClient(base_url=f"http://{listen}", timeout=LIMIT, headers=headers) as client,
    ):
        for sent, code in (
            ([event(data=number) for number in range(200)], 202),
            ([], 202),
            ([event(data=1000), event(id="")], 400),
            ([event(data=1001), event(data="x" * 70_000), event(data=1002)], 413),
        ):
            answer = await client.post("/in", json=sent)
            assert answer.status_code == code, answer.text
        assert answer.json()["detail"] == "2 of 3 events were published: send the others again"
        assert answer.json()["problems"] == ["event 1: too_large"]
        assert (await client.post("/ask", json=[event(), event()])).status_code == 400
        expected = Counter(b"%d" % number for number in [*range(200), 1001, 1002])
        await taken.until(lambda: taken.bodies == expected)
        dropped = {"malformed": 2, "too_large": 1}
        assert account(trigger) == {"received": 205, "published": 202, "waiting": 0, "dropped": dropped}
        assert account(trigger, "ask")["dropped"] == {"malformed": 2}


async def test_a_sdk_for_cloudevents_as_the_caller(broker: BrokerBeside, tmp_path: Path) -> None:
    listen = address()
    made = CloudEvent(
        {
            "id": "1",
            "source": "/caf\u00e9",
            "type": "t",
            "specversion": "1.0",
            "datacontenttype": "application/json",
        },
        {"celsius": 21.5},
    )
    bare = hook(listen, "/data"), hook(listen, "/whole", body="whole")
    async with (
        trigger_here(tmp_path, deployment(broker, *bare)),
        taking(broker) as taken,
        httpx.AsyncClient(base_url=f"http://{listen}") as client,
    ):
        for message in (sdk.to_binary_event(made), sdk.to_structured_event(made)):
            for path in ("/data", "/whole"):
                answer = await client.post(path, content=message.body, headers=message.headers)
                assert answer.status_code == 202, answer.text
        await taken.count(4)
        datas = [json.loads(taken.in_order[at]) for at in (0, 2)]
        wholes = [json.loads(taken.in_order[at]) for at in (1, 3)]
        assert datas == [{"celsius": 21.5}] * 2
        assert wholes[0] == wholes[1]
        assert (wholes[0]["source"], wholes[0]["data"]) == ("/caf\u00e9", {"celsius": 21.5})
        wrong = await client.post("/data", content=b"{}", headers={"ce-id": "1"})
        assert wrong.status_code == 400
        assert len(wrong.json()["problems"]) == 3


async def test_nothing_is_accepted_that_is_not_published(broker: BrokerBeside, tmp_path: Path) -> None:
    """The broker is killed under load and comes back with another number for the topic."""
    listen = address()
    codes: Counter[int] = Counter()
    accepted: set[bytes] = set()
    stop = asyncio.Event()

    async def call(client: httpx.AsyncClient, who: int) -> None:
        number = 0
        while not stop.is_set():
            body = f"{who}.{number}".encode()
            number += 1
            answer = await client.post("/in", content=body)
            codes[answer.status_code] += 1
            if answer.status_code == 202:
                accepted.add(body)
            else:
                assert answer.headers["retry-after"] == "1"

    async with (
        trigger_here(tmp_path, deployment(broker, hook(listen))) as trigger,
        httpx.AsyncClient(base_url=f"http://{listen}", timeout=LIMIT) as client,
    ):
        async with taking(broker) as taken:
            callers = [asyncio.create_task(call(client, who)) for who in range(4)]
            await taken.count(100)
            await asyncio.to_thread(broker.end)
            await eventually(lambda: codes[503] >= 20)
            before = codes[202]
            await asyncio.to_thread(broker.start, 9)
            await eventually(lambda: codes[202] >= before + 100)
            stop.set()
            await asyncio.gather(*callers)
        assert set(codes) == {202, 503}
        told = account(trigger)
        assert told["published"] == len(accepted) == codes[202]
        assert told["dropped"] == {"no_broker": codes[503]}
        assert told["received"] == codes.total()
        # What reached the broker while it lived reached its member; what it had in its socket died with it.
        assert set(taken.bodies) <= accepted
        assert max(taken.bodies.values()) == 1
    await asyncio.to_thread(broker.end)
    await asyncio.to_thread(broker.start)


async def test_hostile_bytes_and_slow_clients(
    broker: BrokerBeside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "LIMITS", replace(http.LIMITS, request=1.0))
    listen = address()
    host, port = listen.split(":")

    def send(content: bytes, *, finish: bool = True) -> bytes:
        with socket.create_connection((host, int(port)), LIMIT) as sock:
            sock.sendall(content)
            got = b""
            # A server that closes with bytes unread resets the connection, behind its answer; perhaps by now.
            with suppress(OSError):
                if finish:
                    sock.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                while part := sock.recv(65536):
                    got += part
            return got

    head = b"POST /in HTTP/1.1\r\nHost: a\r\n"
    async with trigger_here(tmp_path, deployment(broker, hook(listen, limit=100))) as trigger:
        for content, code in [
            (b"\x00\xff\r\n\r\n", b"400"),
            (b"POST /in SMTP/9\r\n\r\n", b"400"),
            (head + b"A: " + b"x" * 200_000 + b"\r\n\r\n", b"400"),
            (head + b"Content-Length: 7777\r\n\r\n", b"413"),
            (
                head
                + b"Content-Length: 2\r\n\r\nokPOST /in HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
                b"202",
            ),
            (head + b"ce-id: \xff\xfe\r\nContent-Length: 0\r\n\r\n", b"400"),
            (head + b"Content-Type: application/cloudevents+json\r\nContent-Length: 3\r\n\r\n\xff{]", b"400"),
        ]:
            got = await asyncio.to_thread(send, content)
            assert got.split(b" ", 2)[1] == code, (content[:60], got[:200])
        # Half a body, and then nothing more: the client went away.
        assert await asyncio.to_thread(send, head + b"Content-Length: 50\r\n\r\nhalf") == b""
        await eventually(lambda: account(trigger)["dropped"].get("incomplete") == 1)
        # One that keeps the line open with half a head is cut off, and one that asks is served meanwhile.
        slow = asyncio.create_task(asyncio.to_thread(send, head + b"A:", finish=False))
        async with httpx.AsyncClient() as client:
            assert (await client.post(f"http://{listen}/in", content=b"x")).status_code == 202
        assert await slow == b""
        told = account(trigger)
        assert told["published"] == 2
        turned_away = trigger.endpoints["in"].status()["source"]["turned_away"]
        assert (turned_away["slow request"], turned_away["malformed request"]) == (1, 3)


async def test_a_port_is_handed_on_without_a_gap(broker: BrokerBeside, tmp_path: Path) -> None:
    """Endpoints come, change and go on one port while callers call: each call is answered, and rightly."""
    listen = address()
    codes: Counter[int] = Counter()
    stop = asyncio.Event()

    async def call(client: httpx.AsyncClient) -> None:
        while not stop.is_set():
            codes[(await client.post("/in", content=b"x")).status_code] += 1

    async with (
        trigger_here(tmp_path, deployment(broker, hook(listen))) as trigger,
        httpx.AsyncClient(base_url=f"http://{listen}", timeout=LIMIT) as client,
    ):
        callers = [asyncio.create_task(call(client)) for _ in range(3)]
        first = trigger.endpoints["in"].source
        for turn in range(6):
            more = [hook(listen, "/other")] if turn % 2 else []
            changed = deployment(broker, hook(listen, limit=100 + turn), *more)
            changes = await trigger.apply(layout.parse(changed, "deployment"), "test")
            assert f"{'added' if turn % 2 else 'removed'} 'other'" in changes or turn == 0
            before = codes[202]
            await eventually(lambda before=before: codes[202] > before)
        assert trigger.endpoints["in"].source is first
        stop.set()
        await asyncio.gather(*callers)
        assert set(codes) == {202}
        assert account(trigger)["published"] == codes[202]
