"""Invokers end to end: a real broker, real workers, and functions that do all that functions do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import brokers
from support.invokers import CODE, LIMIT, Broker, Daemon, function, serving_broker, serving_invoker, step

from tempos import Publisher, ReplyError, Subscriber, TopicKeys


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with serving_broker(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with serving_invoker(tmp_path) as started:
        yield started


def deploy(daemon: Daemon, broker: Broker, *steps: dict[str, Any], text: str = CODE, **more: Any) -> None:
    """Put a deployment of these steps, whose functions are those of ``text``."""
    code = daemon.upload(text)
    names = sorted({each["function"] for each in steps})
    functions = [function(name, code, **more) for name in names]
    document = {"revision": "r", "broker": broker.table, "function": functions, "step": list(steps)}
    status, answer = daemon.ask("PUT", "/v1/deployment", document)
    assert status == 200, answer


def body(do: str = "", **more: Any) -> bytes:
    return json.dumps({"do": do, **more}).encode()


async def take(subscriber: Subscriber, count: int) -> list[Any]:
    return [await subscriber.next(LIMIT) for _ in range(count)]


async def test_events_become_results_requests_replies_and_failures_both(
    broker: Broker, daemon: Daemon
) -> None:
    async with (
        broker.subscriber("out") as out,
        broker.subscriber("errors") as errors,
        broker.publisher() as pub,
    ):
        deploy(daemon, broker, step(), timeout=2.0, concurrency=2)
        await pub.publish("in", body(n=1))
        result = json.loads((await out.next(LIMIT)).body)
        assert (result["n"], result["step"], result["attempt"]) == (1, "s", 1)

        reply = await pub.request("in", body(n=2), LIMIT)
        assert json.loads(reply.body)["n"] == 2
        # A result is published whether or not somebody waits for it.
        assert (await out.next(LIMIT)).body == reply.body

        said = {}
        for do in ("raise", "refuse", "hang", "exit", "large"):
            with pytest.raises(ReplyError) as refused:
                await pub.request("in", body(do), LIMIT)
            answer = refused.value.unpack()
            assert (answer["workflow"], answer["step"], answer["function"]) == ("w", "s", "work")
            said[do] = answer["condition"]
        assert said == {
            "raise": "error", "refuse": "refused", "hang": "timeout", "exit": "crash", "large": "unpublished",
        }  # fmt: skip
        failed = [event.unpack() for event in await take(errors, 5)]
        assert [each["condition"] for each in failed] == list(said.values())
        first = failed[0]
        assert first["reason"] == "ValueError: as told"
        assert first["body"] == body("raise")
        assert first["id"] == f"{pub.id:08x}:{2:08x}"
        assert (first["v"], first["topic"], first["attempts"]) == (1, "in", 1)
        times = first["times"]
        assert times["sent"] <= times["received"] <= times["started"] <= times["ended"]
        assert "exited with code 9" in failed[3]["reason"]

        await pub.publish("in", body("none"))
        status = await daemon.settled(8)
        assert status["total"] == {
            "accepted": 8, "succeeded": 3, "waiting": 0, "running": 0, "retries": 0, "drift": 0,
            "failed": {"error": 1, "timeout": 1, "crash": 1, "refused": 1, "unpublished": 1},
        }  # fmt: skip
        assert status["functions"][0]["account"] == status["steps"][0]["account"] == status["total"]
        assert status["answers"] == {"replies": 1, "error_replies": 5, "replies_failed": 0}
        assert out.poll() is None
    assert broker.balanced()


async def test_a_chain_of_steps_answers_with_what_the_last_one_gave(broker: Broker, daemon: Daemon) -> None:
    first = step("first", "say", result="mid", reply=False)
    async with broker.subscriber("out") as out, broker.publisher() as pub:
        deploy(daemon, broker, first, step("second", "twice", topic="mid"))
        assert (await pub.request("in", b"ab", LIMIT)).body == b"abab"
        assert (await out.next(LIMIT)).body == b"abab"
        await pub.publish("in", b"x")
        assert (await out.next(LIMIT)).body == b"xx"
        # An error of the last step is the answer, too; the first one has done its part.
        deploy(daemon, broker, first, step("second", "work", topic="mid"))
        with pytest.raises(ReplyError) as refused:
            await pub.request("in", body("raise"), LIMIT)
        assert refused.value.unpack()["step"] == "second"
        status = await daemon.settled(6)
        accounts = {each["name"]: each["account"] for each in status["steps"]}
        assert accounts["first"]["succeeded"] == 3
        assert accounts["second"]["failed"] == {"error": 1}


async def test_a_chain_that_is_not_wanted_any_more_answers_what_is_on_its_way(
    broker: Broker, daemon: Daemon, tmp_path: Path
) -> None:
    first = step("first", "work", result="mid", reply=False)
    async with broker.publisher() as pub:
        deploy(daemon, broker, first, step("second", "twice", topic="mid"), timeout=600.0)
        file = tmp_path / "go"
        waiting = asyncio.create_task(pub.request("in", body("until", file=str(file), n=1), LIMIT))
        await daemon.comes_to(running=1)
        deploy(daemon, broker, step("other", "say", topic="urgent"))
        assert daemon.status()["leaving"]
        file.touch()
        answer = (await waiting).body
        half = answer[: len(answer) // 2]
        assert answer == half + half
        assert json.loads(half)["n"] == 1
        await asyncio.to_thread(daemon.until, lambda told: not told["leaving"], "all of it has left")
    assert broker.balanced()


async def test_the_account_is_exact_whatever_happens_to_the_workers(broker: Broker, daemon: Daemon) -> None:
    count = 200
    chosen = random.Random(5)
    ways = [""] * 20 + ["raise", "refuse", "exit", "large", "none"]
    bodies = {n: body(chosen.choice(ways), n=n) for n in range(count)}
    bodies[40] = body("hang", n=40)
    async with (
        broker.subscriber("out") as out,
        broker.subscriber("errors") as errors,
        broker.publisher() as pub,
    ):
        deploy(daemon, broker, step(retries=1, backoff=0.01), timeout=0.5, concurrency=3)

        async def kill() -> None:
            while True:
                told = (await asyncio.to_thread(daemon.status))["functions"][0]["workers"]
                pids = [each["pid"] for each in told if each["state"] == "serving"]
                # One always goes on.
                if len(pids) > 1:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(chosen.choice(pids), signal.SIGKILL)

        killer = asyncio.create_task(kill())
        for text in bodies.values():
            await pub.publish("in", text)
        status = await daemon.settled(count)
        killer.cancel()
        total = status["total"]
        assert total["accepted"] == count
        failed = sum(total["failed"].values())
        assert total["succeeded"] + failed == count
        assert status["functions"][0]["restarts"] > 3

        results = Counter()
        envelopes = [event.unpack() for event in await take(errors, failed)]
        silent = sum(json.loads(text)["do"] == "none" for text in bodies.values())
        silent -= sum(json.loads(each["body"] or "{}").get("do") == "none" for each in envelopes)
        for event in await take(out, total["succeeded"] - silent):
            results[json.loads(event.body)["id"]] += 1
        # Nobody is told of twice, or both ways.
        assert set(results.values()) <= {1}
        assert len({each["id"] for each in envelopes}) == failed
        assert not results.keys() & {each["id"] for each in envelopes}
        assert Counter(each["condition"] for each in envelopes) == total["failed"]
        assert all(each["attempts"] == 2 for each in envelopes if each["condition"] in ("crash", "error"))
        hung = next(each for each in envelopes if json.loads(each["body"])["n"] == 40)
        assert hung["condition"] in ("timeout", "crash")
    assert broker.balanced()


NOTED = """
import json, os, signal

def work(body):
    event = json.loads(body)
    if event["do"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if event["do"] == "raise":
        raise ValueError("as told")
    if event["do"] == "nothing":
        return None
    with open(PATH, "a") as file:
        file.write(str(event["n"]) + "\\n")
"""


async def test_what_workers_only_note_is_exact_too(broker: Broker, daemon: Daemon, tmp_path: Path) -> None:
    # Nobody wants the outputs, so successes wake nobody up, and are seen when one looks.
    count, ran = 400, tmp_path / "ran"
    fails = {**dict.fromkeys((50, 51, 120, 399), "kill"), **dict.fromkeys((49, 52, 200, 398), "raise")}
    text = f"PATH = {str(ran)!r}\n{NOTED}"
    async with broker.subscriber("errors") as errors, broker.publisher() as pub:
        deploy(daemon, broker, step(result=""), text=text)
        for n in range(count):
            await pub.publish("in", body(fails.get(n, ""), n=n))
        status = await daemon.settled(count)
        assert status["total"]["failed"] == {"error": 4, "crash": 4}
        assert status["total"]["succeeded"] == count - len(fails)
        told = {json.loads(each.unpack()["body"])["n"] for each in await take(errors, len(fails))}
        assert told == set(fails)
        # What succeeded has run once, and nothing else has.
        assert sorted(map(int, ran.read_text().split())) == [n for n in range(count) if n not in fails]
        # Who retires is let go, though nobody is told that it is done.
        for _ in range(60):
            await pub.publish("in", body("nothing"))
        status = await daemon.settled(count + 60)
        before = {each["pid"] for each in status["functions"][0]["workers"]}
        assert before
        await pub.publish("in", body("nothing"))
        await asyncio.to_thread(deploy, daemon, broker, step(result=""), text=text + "\n")
        status = await asyncio.to_thread(
            daemon.until,
            lambda told: not before & {each["pid"] for each in told["functions"][0]["workers"]},
            "the old one is gone",
        )
        await daemon.settled(count + 61)
    assert broker.balanced()


async def test_a_new_version_under_load_loses_nothing(broker: Broker, daemon: Daemon) -> None:
    count = 300
    async with broker.subscriber("out") as out, broker.publisher() as pub:
        deploy(daemon, broker, step(error=""), concurrency=2)
        before = {each["pid"] for each in daemon.status()["functions"][0]["workers"]}

        async def publish() -> None:
            for n in range(count):
                await pub.publish("in", body("sleep", n=n, seconds=0.006))
                await asyncio.sleep(0.002)

        publishing = asyncio.create_task(publish())
        for version in (2, 3):
            text = CODE.replace("VERSION = 1", f"VERSION = {version}")
            await asyncio.to_thread(deploy, daemon, broker, step(error=""), text=text, concurrency=2)
        # What was put is in force: nothing that comes now is the old version's.
        await pub.publish("in", body(n=-1))
        await publishing
        results = [json.loads(event.body) for event in await take(out, count + 1)]
        assert sorted(each["n"] for each in results) == list(range(-1, count))
        assert {each["version"] for each in results if each["n"] == -1} == {3}
        assert {each["version"] for each in results} >= {1, 3}
        status = await asyncio.to_thread(
            daemon.until, lambda told: len(told["functions"][0]["workers"]) == 2, "the old ones are gone"
        )
        assert not before & {each["pid"] for each in status["functions"][0]["workers"]}
        assert status["total"]["succeeded"] == count + 1
        assert status["functions"][0]["restarts"] == 0
    assert broker.balanced()


async def test_failures_are_kept_shown_and_accepted_anew(broker: Broker, daemon: Daemon) -> None:
    async with broker.subscriber("out") as out, broker.publisher() as pub:
        broken = CODE.replace("event = json.loads(body)", "raise RuntimeError('not yet')")
        deploy(daemon, broker, step(error="", max_age=30.0), text=broken)
        for n in range(3):
            await pub.publish("in", body(n=n))
        await daemon.settled(3)
        listed = daemon.ask("GET", "/v1/errors?condition=error")[1]["errors"]
        assert [each["reason"] for each in listed] == ["RuntimeError: not yet"] * 3
        shown = daemon.ask("GET", f"/v1/errors/{listed[-1]['number']}")[1]
        assert bytes.fromhex(shown["body"]) == body(n=0)
        assert daemon.ask("GET", "/v1/errors/99")[0] == 404

        deploy(daemon, broker, step(error="", max_age=30.0))
        numbers = [each["number"] for each in listed[1:]]
        answer = daemon.ask("POST", "/v1/errors/redrive", {"numbers": numbers})
        assert answer == (200, {"redriven": sorted(numbers), "left": []})
        results = [json.loads(event.body) for event in await take(out, 2)]
        assert [each["n"] for each in results] == [0, 1]
        # The same events: a function can tell that it has seen them.
        assert [each["id"] for each in results] == [f"{pub.id:08x}:{n:08x}" for n in range(2)]
        assert daemon.ask("GET", "/v1/errors")[1]["found"] == 1
        deploy(daemon, broker, step("other", error=""))
        left = daemon.ask("POST", "/v1/errors/redrive", {"workflow": "w"})[1]
        assert left == {"redriven": [], "left": [listed[0]["number"]]}
        assert daemon.ask("POST", "/v1/errors/redrive", {"what": 1})[0] == 422


async def test_a_result_waits_for_a_broker_that_is_gone(daemon: Daemon, tmp_path: Path) -> None:
    broker = Broker(tmp_path, remembers=True)
    with brokers.serving(broker.file, broker.log, how=signal.SIGKILL):
        out = await broker.subscriber("out").__aenter__()
        deploy(daemon, broker, step(), timeout=600.0)
        async with broker.publisher() as pub:
            await pub.publish("in", body("until", file=str(tmp_path / "go"), n=1))
        await daemon.comes_to(running=1)
    (tmp_path / "go").touch()
    await asyncio.to_thread(daemon.until, lambda told: told["returned"], "the result came back")
    assert daemon.status()["total"]["running"] == 1
    with brokers.serving(broker.file, broker.log):
        assert json.loads((await out.next(LIMIT)).body)["n"] == 1
        status = await daemon.settled(1)
        assert status["total"]["succeeded"] == 1
        await out.close()


async def test_it_stops_in_time_and_tells_what_was_not_done(broker: Broker, daemon: Daemon) -> None:
    async with broker.subscriber("errors") as errors, broker.publisher() as pub:
        deploy(daemon, broker, step(), timeout=600.0)
        await pub.publish("in", body("hang", n=0))
        await pub.publish("in", body(n=1))
        await daemon.comes_to(waiting=1, running=1)
        waiting = asyncio.create_task(pub.request("in", body(n=2), LIMIT))
        await daemon.comes_to(waiting=2, running=1)
        assert await asyncio.to_thread(daemon.end) == 0
        with pytest.raises(ReplyError) as refused:
            await waiting
        assert refused.value.unpack()["condition"] == "stopped"
        failed = [event.unpack() for event in await take(errors, 3)]
        assert {each["condition"] for each in failed} == {"stopped"}
        assert sorted(json.loads(each["body"])["n"] for each in failed) == [0, 1, 2]
    assert broker.balanced()


async def test_encrypted_topics_from_request_to_result(
    broker: Broker, daemon: Daemon, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"in {'5e' * 32}\nout {'c4' * 32}\n")
    file.chmod(0o600)
    table = {**broker.table, "keys_file": str(file)}
    code = function("work", daemon.upload(CODE))
    document = {"revision": "r", "broker": table, "function": [code], "step": [step()]}
    file.chmod(0o644)
    status, answer = daemon.ask("PUT", "/v1/deployment", document)
    assert status == 422
    assert "broker.keys_file" in str(answer)
    assert "chmod 600" in str(answer)
    file.chmod(0o600)
    status, answer = daemon.ask("PUT", "/v1/deployment", document)
    assert status == 200, answer
    keys = TopicKeys.read(file)
    at = {"control_port": broker.table["control_port"]}
    async with (
        broker.subscriber("out") as stranger,
        Subscriber("127.0.0.1", "out", keys=keys, **at) as out,
        Publisher("127.0.0.1", data_port=broker.table["data_port"], keys=keys, **at) as pub,
        broker.publisher() as liar,
    ):
        await liar.publish("in", body(n=0))
        reply = await pub.request("in", body(n=1), LIMIT)
        assert json.loads(reply.body)["n"] == 1
        assert (await out.next(LIMIT)).body == reply.body
        assert reply.body not in (await stranger.next(LIMIT)).body
        await daemon.settled(1)
