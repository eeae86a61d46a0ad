"""A worker that reads its step's socket itself: exactly, in order, while nothing else is to be done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.invokers import LIMIT, Broker, Daemon, function, serving_broker, serving_invoker, step

from tempos_invoker.worker.incoming import can_read

pytestmark = pytest.mark.skipif(not can_read(), reason="the invoker's compiled part is not there")

KILLS = 6

CODE = """
import json, os, time

def work(body, context):
    event = json.loads(body)
    with open(PATH, "a") as file:
        file.write(f"{event['n']} {VERSION} {context.attempt} {context.topic} {context.step}\\n")
    if event["do"] == "raise" and context.attempt == 1:
        raise ValueError("as told")
    while event["do"] == "until" and not os.path.exists(event["file"]):
        time.sleep(0.01)
    return json.dumps(event["n"])

VERSION = 1
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with serving_broker(tmp_path_factory.mktemp("broker")) as started:
        yield started


class Served:
    """A function that writes down what it is called with."""

    def __init__(self, broker: Broker, daemon: Daemon, folder: Path) -> None:
        self.broker, self.daemon, self.path = broker, daemon, folder / "ran"
        self.path.touch()

    def deploy(self, *steps: dict[str, Any], version: int = 1, **more: Any) -> None:
        text = f"PATH = {str(self.path)!r}\n" + CODE.replace("VERSION = 1", f"VERSION = {version}")
        code = self.daemon.upload(text)
        document = {"broker": self.broker.table, "function": [function("work", code, **more)],
                    "step": list(steps)}  # fmt: skip
        status, answer = self.daemon.ask("PUT", "/v1/deployment", document)
        assert status == 200, answer

    @property
    def ran(self) -> list[list[str]]:
        return [line.split() for line in self.path.read_text().splitlines()]

    async def reads(self) -> dict[str, Any]:
        """Wait until a worker reads."""
        return await asyncio.to_thread(
            self.daemon.until, lambda told: told["steps"][0]["source"]["lent"], "a worker reads"
        )


@pytest.fixture
def served(broker: Broker, tmp_path: Path) -> Iterator[Served]:
    with serving_invoker(tmp_path) as daemon:
        yield Served(broker, daemon, tmp_path)
    assert broker.balanced()


def body(n: int, do: str = "", **more: Any) -> bytes:
    return json.dumps({"do": do, "n": n, **more}).encode()


@pytest.mark.parametrize("result", ["", "out"])
async def test_kills_lose_nothing_and_are_told(served: Served, result: str) -> None:
    count, chosen = 600, random.Random(3)
    async with served.broker.publisher() as pub:
        served.deploy(step(result=result))
        await served.reads()

        async def kill() -> None:
            kills = 0
            while kills < KILLS:
                told = await asyncio.to_thread(served.daemon.status)
                (source,) = [each["source"] for each in told["steps"]]
                if source["lent"]:
                    kills += 1
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(told["functions"][0]["workers"][0]["pid"], signal.SIGKILL)

        killer = asyncio.create_task(kill())
        for n in range(count):
            await pub.publish("in", body(n))
            if chosen.random() < 0.3:
                await asyncio.sleep(0.002)
        status = await served.daemon.settled(count)
        killer.cancel()
        total = status["total"]
        failed = sum(total["failed"].values())
        assert (total["accepted"], total["succeeded"] + failed) == (count, count)
        # On a machine that starves a new worker may be waited for in vain.
        assert total["failed"].keys() <= {"crash", "no_worker"}
        assert total["failed"].get("crash", 0) <= KILLS
        assert status["steps"][0]["source"]["missed"] == 0
        assert status["functions"][0]["restarts"] > 0
        # Whatever was not told as failed has run, once.
        numbers = sorted(int(each[0]) for each in served.ran)
        assert len(numbers) == len(set(numbers))
        assert total["succeeded"] <= len(numbers) <= count


async def test_failures_are_tried_again(served: Served) -> None:
    async with served.broker.subscriber("out") as out, served.broker.publisher() as pub:
        served.deploy(step(retries=1, backoff=0.01))
        await served.reads()
        for n, do in enumerate(["", "raise", "", ""]):
            await pub.publish("in", body(n, do))
        assert sorted([int((await out.next(LIMIT)).body) for _ in range(4)]) == [0, 1, 2, 3]
        status = await served.daemon.settled(4)
        assert (status["total"]["succeeded"], status["total"]["retries"]) == (4, 1)
        ran = sorted((int(n), int(attempt)) for n, _, attempt, _, _ in served.ran)
        assert ran == [(0, 1), (1, 1), (1, 2), (2, 1), (3, 1)]
        assert {tuple(each[3:]) for each in served.ran} == {("in", "s")}


async def test_requests_and_batches_are_answered_by_the_invoker(served: Served) -> None:
    async with served.broker.subscriber("out") as out, served.broker.publisher() as pub:
        served.deploy(step())
        await served.reads()
        await pub.publish("in", body(0))
        assert (await pub.request("in", body(1), LIMIT)).body == b"1"
        async with pub.batch():
            for n in (2, 3, 4):
                await pub.publish("in", body(n))
        assert [int((await out.next(LIMIT)).body) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert (await served.daemon.settled(5))["total"]["succeeded"] == 5


async def test_what_waits_behind_a_call_that_takes_long_is_the_invoker_s(
    served: Served, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    async with served.broker.subscriber("errors") as errors, served.broker.publisher() as pub:
        served.deploy(step(result="", queue=5), timeout=600.0)
        await served.reads()
        await pub.publish("in", body(0, "until", file=str(go)))
        await served.daemon.comes_to(accepted=1, running=1)
        await asyncio.to_thread(
            served.daemon.until, lambda told: not told["steps"][0]["source"]["lent"], "it is asked back"
        )
        for n in range(1, 40):
            await pub.publish("in", body(n))
        # The queue's bound holds, and whoever is beyond it hears of it at once.
        failed = json.loads((await errors.next(LIMIT)).unpack()["body"])["n"]
        go.touch()
        status = await served.daemon.settled(40)
        assert status["total"]["failed"].keys() == {"queue_full"}
        assert failed not in {int(each[0]) for each in served.ran}


async def test_a_new_version_takes_over_and_events_keep_their_order(served: Served) -> None:
    count = 400
    async with served.broker.publisher() as pub:
        served.deploy(step(result=""))
        await served.reads()

        async def publish() -> None:
            for n in range(count):
                await pub.publish("in", body(n))
                await asyncio.sleep(0.002)

        publishing = asyncio.create_task(publish())
        for version in (2, 3):
            await asyncio.to_thread(served.deploy, step(result=""), version=version)
        await publishing
        status = await served.daemon.settled(count)
        assert status["total"]["succeeded"] == count
        ran = [(int(n), int(version)) for n, version, *_ in served.ran]
        assert sorted(n for n, _ in ran) == list(range(count))
        for version in (1, 2, 3):
            numbers = [n for n, of in ran if of == version]
            assert numbers == sorted(numbers)
        assert await asyncio.to_thread(served.daemon.end) == 0


async def test_a_second_step_of_the_function_has_its_turn(served: Served) -> None:
    async with served.broker.publisher() as pub:
        served.deploy(step(result=""))
        await served.reads()
        await asyncio.to_thread(served.deploy, step(result=""), step("t", result="", topic="mid"))
        for n in range(20):
            await pub.publish("in" if n % 2 else "mid", body(n))
        status = await served.daemon.settled(20)
        assert [each["account"]["succeeded"] for each in status["steps"]] == [10, 10]
        assert {each[4] for each in served.ran} == {"s", "t"}
