"""A broker is taken out of service under traffic: nothing is lost, and then nobody needs it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.etcd import Cluster
from support.fleets import Fleet, ended
from support.waiting import LIMIT, until

from tempos import Publisher
from tempos.cli import main


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("etcd"))
    made.start()
    yield made
    made.end()


def homes(fleet: Fleet, asked: str) -> dict[str, int]:
    """How many members are at home at each broker, as one knows it."""
    brokers = fleet.status(asked)["fleet"]["brokers"]
    return {each["name"].partition("-")[0]: each["members"] for each in brokers}


async def test_a_broker_is_taken_out_of_service_and_nothing_is_lost(
    etcd: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two", lease=2)) as fleet:
        fleet.start()
        brokers = [fleet.addresses["one"], fleet.addresses["two"]]

        async def run(*arguments: str) -> tuple[int, str]:
            api = f"http://127.0.0.1:{fleet.apis['two']}"
            code = await asyncio.to_thread(main, ["fleet", *arguments, "--api", api])
            return code, capsys.readouterr().out

        async with (
            fleet.subscriber("one", "a") as subscriber,
            Publisher(brokers, data_port=fleet.data, control_port=fleet.control) as publisher,
        ):
            sent = 0
            going = True

            async def publish() -> None:
                nonlocal sent
                while going:
                    await publisher.publish("a", sent)
                    sent += 1
                    await asyncio.sleep(0.005)

            publishing = asyncio.ensure_future(publish())
            name = f"one-{fleet.data}"
            code, told = await run("drain", name, "--wait", str(LIMIT))
            assert code == 0, told
            assert "it can be stopped" in told
            assert homes(fleet, "two") == {"one": 0, "two": 1}
            code, told = await run("status")
            assert code == 0
            line = next(line for line in told.splitlines() if name in line)
            assert line.split()[-1] == "no"
            await asyncio.to_thread(fleet.end, "one", how=signal.SIGTERM)
            at_end = sent
            while sent < at_end + 100:
                await asyncio.sleep(0.01)
            # Its next life is in service again: both go back to it.
            await asyncio.to_thread(fleet.start, "one")
            await asyncio.to_thread(until, lambda: homes(fleet, "two") == {"one": 1, "two": 0})
            going = False
            await publishing
            got: list[Any] = [(await subscriber.next(LIMIT)).unpack() for _ in range(sent)]
            assert sorted(got) == list(range(sent))
            assert subscriber.stats.missed == subscriber.stats.duplicates == 0


async def test_the_last_broker_stays_and_an_order_is_taken_back(
    etcd: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two", lease=2)) as fleet:
        fleet.start()

        async def run(*arguments: str) -> tuple[int, str]:
            api = f"http://127.0.0.1:{fleet.apis['two']}"
            code = await asyncio.to_thread(main, ["fleet", *arguments, "--api", api])
            captured = capsys.readouterr()
            return code, captured.out + captured.err

        one, two = f"one-{fleet.data}", f"two-{fleet.data}"
        code, told = await run("drain", "nobody")
        assert code == 1
        assert "no broker 'nobody'" in told
        # A client that knows no fleets stays, and is told of.
        subscriber = fleet.subscriber("one", "a", confirm="home")

        async def enters_no_fleet(*_: object) -> None:
            return

        subscriber._others.enter = enters_no_fleet  # type: ignore[method-assign]
        async with subscriber:
            code, told = await run("drain", one, "--wait", "1")
            assert code == 1, told
            assert "1 members" in told or "not said anything" in told
            code, told = await run("drain", two)
            assert code == 1
            assert "the last broker" in told
            assert (await run("drain", one, "--undo"))[0] == 0
            brokers = json.loads((await run("status", "--json"))[1])["brokers"]
            await asyncio.to_thread(
                until,
                lambda: all(each["leaving"] is None for each in fleet.status("one")["fleet"]["brokers"]),
            )
            assert {each["name"] for each in brokers} == {one, two}
