"""Several brokers, one bus: real brokers over a real etcd."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from support.brokers import get
from support.etcd import Cluster
from support.fleets import Fleet, ended
from support.waiting import LIMIT, until

from tempos import Publisher, Subscriber
from tempos.cli import main


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("etcd"))
    made.start()
    yield made
    made.end()


async def bodies(subscriber: Subscriber, number: int) -> list[object]:
    return [(await subscriber.next(LIMIT)).unpack() for _ in range(number)]


@pytest.mark.parametrize("way", ["batches", "portable", "worker"])
async def test_what_is_published_at_one_broker_reaches_members_of_another(
    way: str, etcd: Cluster, tmp_path: Path
) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two", way=way)) as fleet:
        fleet.start()
        async with (
            fleet.subscriber("one", "a") as subscriber,
            fleet.publisher("one") as here,
            fleet.publisher("two") as there,
        ):
            assert subscriber.fleet == (2, 2)
            for number in range(100):
                await here.publish("a", ["one", number])
                await there.publish("a", ["two", number])
            got = await bodies(subscriber, 200)
            for name in ("one", "two"):
                assert [each for each in got if each[0] == name] == [[name, n] for n in range(100)]  # type: ignore[index]
            drained = await subscriber.drain()
        assert drained is not None
        assert (drained.ticketed, drained.delivered, drained.lost) == (200, 200, 0)
        assert subscriber.stats.missed == 0
        assert account(fleet, "a") == (200, 200, 0)


def account(fleet: Fleet, topic: str) -> tuple[int, int, int]:
    """What all brokers together received of a topic, and what its groups were ticketed, and lost."""
    received = ticketed = lost = 0
    for name in fleet.names:
        document = get(fleet.apis[name], f"/v1/ledger/{topic}")
        assert document["balanced"], document
        received += document["received"]
        ticketed += sum(group["tickets"] for group in document["groups"])
        lost += sum(group["lost"] for group in document["groups"])
    return received, ticketed, lost


async def test_a_group_over_two_homes_shares_what_comes_to_each(etcd: Cluster, tmp_path: Path) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two", "three")) as fleet:
        fleet.start()
        async with (
            fleet.subscriber("one", "a", group="g") as first,
            fleet.subscriber("two", "#", group="g") as second,
            fleet.publisher("three") as publisher,
        ):
            assert first.fleet == second.fleet == (3, 3)
            for number in range(100):
                await publisher.publish("a", number)
            halves = await bodies(first, 50), await bodies(second, 50)
            assert sorted([*halves[0], *halves[1]]) == list(range(100))  # type: ignore[type-var]
            await first.drain()
            # From the moment that it has left, the other gets all of it, whoever hears it.
            for number in range(10):
                await publisher.publish("a", number)
            assert await bodies(second, 10) == list(range(10))
            assert first.stats.missed == second.stats.missed == 0
        assert account(fleet, "a") == (110, 110, 0)


async def test_what_is_unsubscribed_from_is_sent_by_nobody(etcd: Cluster, tmp_path: Path) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two")) as fleet:
        fleet.start()
        async with fleet.subscriber("one", "a", "b") as subscriber, fleet.publisher("two") as publisher:
            await subscriber.unsubscribe("a")
            await publisher.publish("a", "nobody")
            await publisher.publish("b", "heard")
            assert await bodies(subscriber, 1) == ["heard"]
        assert account(fleet, "a") == (1, 0, 0)


async def test_a_member_that_dies_is_out_everywhere_when_its_lease_ends(
    etcd: Cluster, tmp_path: Path
) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two", lease=1)) as fleet:
        fleet.start()
        subscriber = fleet.subscriber("one", "a")
        await subscriber.__aenter__()
        assert members(fleet, "two", "a") == 1
        # It says nothing any more, and nobody hears of that.
        for link in (subscriber._link, *(each._link for each in subscriber._others._satellites.values())):
            assert link is not None
            await link.close()
        await _wait(lambda: members(fleet, "one", "a") == members(fleet, "two", "a") == 0)
        await subscriber.close()


async def test_a_topic_made_at_one_broker_is_served_and_removed_by_all(etcd: Cluster, tmp_path: Path) -> None:
    def order(name: str, *words: str) -> int:
        return main(["ctl", "topic", *words, "--api", f"http://127.0.0.1:{fleet.apis[name]}"])

    def known(name: str) -> list[str]:
        return [each["name"] for each in get(fleet.apis[name], "/v1/topics")]

    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two", "three", state=True)) as fleet:
        fleet.start()
        async with fleet.subscriber("two", "plant/#") as subscriber, fleet.publisher("three") as publisher:
            await _aside(order, "one", "add", "plant/new", "--priority", "3")
            assert known("one") == known("two") == known("three") == ["a", "b", "plant/new"]
            await _wait(lambda: members(fleet, "three", "plant/new") == 1)
            for number in range(20):
                await publisher.publish("plant/new", number)
            assert await bodies(subscriber, 20) == list(range(20))
            # One is not there while it is removed, and does not bring it back from its state.
            fleet.end("one", how=signal.SIGKILL)
            await _aside(order, "two", "remove", "plant/new", "--drain")
            assert known("two") == known("three") == ["a", "b"]
            await _aside(fleet.start, "one")
            await _wait(lambda: known("one") == ["a", "b"])
            assert subscriber.stats.missed == 0


def members(fleet: Fleet, name: str, topic: str) -> int:
    """How many members a topic has at a broker."""
    document = get(fleet.apis[name], f"/v1/topics/{quote(topic, safe='')}")
    return sum(len(group["members"]) for group in document["groups"])


async def _wait(condition: Callable[[], bool]) -> None:
    await _aside(until, condition)


async def _aside(call: Callable[..., object], *arguments: object) -> None:
    """What takes its time must not keep clients from theirs."""
    await asyncio.get_running_loop().run_in_executor(None, call, *arguments)


async def test_a_broker_that_comes_later_serves_the_members_that_there_are(
    etcd: Cluster, tmp_path: Path
) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two", lease=2)) as fleet:
        fleet.start("one")
        async with fleet.subscriber("one", "a") as subscriber:
            assert subscriber.fleet == (1, 1)
            await _aside(fleet.start, "two")
            await _wait(lambda: members(fleet, "two", "a") == 1)
            async with fleet.publisher("two") as publisher:
                for number in range(20):
                    await publisher.publish("a", number)
                assert await bodies(subscriber, 20) == list(range(20))
            assert subscriber.stats.missed == 0


async def test_a_member_of_a_dead_broker_is_out_when_that_brokers_lease_ends(
    etcd: Cluster, tmp_path: Path
) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two", "three", lease=2)) as fleet:
        fleet.start()
        async with fleet.subscriber("two", "a", confirm="home") as stays:
            leaves = fleet.subscriber("one", "a")
            await leaves.__aenter__()
            assert members(fleet, "two", "a") == 2
            for satellite in leaves._others._satellites.values():
                assert satellite._link is not None
                await satellite._link.close()
            await _aside(lambda: fleet.end("one", how=signal.SIGKILL))
            await _wait(lambda: members(fleet, "two", "a") == members(fleet, "three", "a") == 1)
            async with fleet.publisher("three") as publisher:
                await publisher.publish("a", 1)
                assert await bodies(stays, 1) == [1]
            await leaves.close()


async def test_without_its_store_what_is_in_force_stays_and_what_is_asked_meanwhile_follows(
    tmp_path: Path,
) -> None:
    cluster = Cluster(tmp_path)
    cluster.start()
    try:
        with ended(Fleet(tmp_path, cluster.endpoints, "one", "two", lease=3)) as fleet:
            fleet.start()
            async with (
                fleet.subscriber("one", "a") as before,
                fleet.publisher("two") as publisher,
            ):
                await _aside(cluster.end)
                await _wait(lambda: fleet.status("one")["fleet"]["registry"] == "away")
                for number in range(20):
                    await publisher.publish("a", number)
                assert await bodies(before, 20) == list(range(20))
                async with fleet.subscriber("one", "b") as meanwhile:
                    # It is told that nobody but its home has heard of it.
                    assert meanwhile.fleet == (1, 2)
                    await _aside(cluster.start)
                    await _wait(lambda: members(fleet, "two", "b") == 1)
                    await publisher.publish("b", "late")
                    assert await bodies(meanwhile, 1) == ["late"]
                assert before.stats.missed == 0
    finally:
        cluster.end()


async def test_a_store_that_has_lost_everything_takes_no_member_away(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.start()
    try:
        with ended(Fleet(tmp_path, cluster.endpoints, "one", "two", lease=6)) as fleet:
            fleet.start()
            async with fleet.subscriber("one", "a") as subscriber, fleet.publisher("two") as publisher:
                for number in range(20):
                    await publisher.publish("a", number)
                await _aside(cluster.end)
                shutil.rmtree(tmp_path / "etcd0")
                await _aside(cluster.start)
                await _wait(lambda: all(fleet.known(name) for name in fleet.names))
                for number in range(20, 40):
                    await publisher.publish("a", number)
                assert await bodies(subscriber, 40) == list(range(40))
            assert subscriber.stats.missed == 0
    finally:
        cluster.end()


async def test_a_client_that_knows_no_fleets_is_a_member_of_its_broker_alone(
    etcd: Cluster, tmp_path: Path
) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two")) as fleet:
        fleet.start()
        subscriber = fleet.subscriber("one", "a", confirm="home")

        async def enters_no_fleet(*_: object) -> None:
            return

        subscriber._others.enter = enters_no_fleet  # type: ignore[method-assign]
        async with subscriber, fleet.publisher("one") as here, fleet.publisher("two") as there:
            await there.publish("a", "not heard")
            await here.publish("a", "heard")
            assert await bodies(subscriber, 1) == ["heard"]
        assert account(fleet, "a") == (2, 1, 0)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_publisher_goes_on_at_another_broker_and_comes_back(
    how: signal.Signals, etcd: Cluster, tmp_path: Path
) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two", "three", lease=3)) as fleet:
        fleet.start()
        brokers = [fleet.addresses["one"], fleet.addresses["two"]]
        async with (
            fleet.subscriber("three", "a") as subscriber,
            Publisher(brokers, data_port=fleet.data, control_port=fleet.control) as publisher,
        ):
            await publisher.publish("a", "first")
            assert await bodies(subscriber, 1) == ["first"]
            first = publisher.id
            if how == signal.SIGSTOP:
                fleet.signal("one", how)
            else:
                await _aside(lambda: fleet.end("one", how=how))
            number = 0
            while publisher.id == first:
                await publisher.publish("a", number)
                number += 1
                await asyncio.sleep(0.01)
            await publisher.publish("a", "second")
            got = await until_body(subscriber, "second")
            # What was on its way to the broker that is gone may be lost; nothing comes twice.
            assert len(set(got)) == len(got)
            second = publisher.id
            if how == signal.SIGSTOP:
                fleet.signal("one", signal.SIGCONT)
            else:
                await _aside(fleet.start, "one")
            while publisher.id == second:
                await publisher.publish("a", "either")
                await asyncio.sleep(0.01)
            await publisher.publish("a", "third")
            await until_body(subscriber, "third")


async def until_body(subscriber: Subscriber, body: str) -> list[object]:
    got: list[object] = []
    while body not in got:
        got += await bodies(subscriber, 1)
    return got


@pytest.mark.parametrize(("how", "state"), [(signal.SIGKILL, False), (signal.SIGSTOP, True)])
async def test_a_subscriber_finds_another_home_and_comes_back(
    state: bool, how: signal.Signals, etcd: Cluster, tmp_path: Path
) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two", "three", lease=4, state=state)) as fleet:
        fleet.start()

        def homes(name: str) -> dict[str, int]:
            told = fleet.status(name)["fleet"]["brokers"]
            return {each["name"].partition("-")[0]: each["members"] for each in told}

        async with fleet.subscriber("one", "a", "b") as subscriber, fleet.publisher("three") as publisher:
            await publisher.publish("a", 0)
            if how == signal.SIGSTOP:
                fleet.signal("one", how)
            else:
                await _aside(lambda: fleet.end("one", how=how))
            number = 1
            while homes("three")["two"] + homes("three")["three"] != 1:
                await publisher.publish("a", number)
                number += 1
                await asyncio.sleep(0.02)
            # Longer than any lease of the dead one lasts.
            await _wait(lambda: "one" not in homes("three"))
            await publisher.publish("a", number)
            assert await bodies(subscriber, number + 1) == list(range(number + 1))
            await subscriber.unsubscribe("b")
            assert subscriber.topics == ("a",)
            if how == signal.SIGSTOP:
                fleet.signal("one", signal.SIGCONT)
            else:
                await _aside(fleet.start, "one")
            await _wait(lambda: homes("three").get("one") == 1)
            assert subscriber.fleet is not None
            assert members(fleet, "one", "a") == members(fleet, "two", "a") == 1
            async with fleet.publisher("one") as there:
                await there.publish("a", "back")
                assert await bodies(subscriber, 1) == ["back"]
            assert subscriber.stats.missed == subscriber.stats.duplicates == 0
        for name in fleet.names:
            assert get(fleet.apis[name], "/v1/ledger/a")["balanced"]


async def test_who_waits_for_topics_finds_another_home_and_comes_back(etcd: Cluster, tmp_path: Path) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two", lease=3)) as fleet:
        fleet.start()

        def homes(asked: str) -> list[str]:
            told = get(fleet.apis[asked], "/v1/fleet/members")
            return [str(each["home"]).partition("-")[0] for each in told]  # type: ignore[index]

        async with fleet.subscriber("one", "later/#") as subscriber:
            assert subscriber.topics == ()
            await _aside(lambda: fleet.end("one", how=signal.SIGKILL))
            await _wait(lambda: homes("two") == ["two"])
            await _aside(fleet.start, "one")
            await _wait(lambda: homes("two") == homes("one") == ["one"])


async def test_of_several_brokers_the_first_that_is_there_is_taken(etcd: Cluster, tmp_path: Path) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two")) as fleet:
        fleet.start("two")
        brokers = ",".join(fleet.addresses.values())
        options = {"control_port": fleet.control}
        async with (
            Subscriber(brokers, "a", **options) as subscriber,
            Publisher(brokers, data_port=fleet.data, **options) as publisher,
        ):
            await publisher.publish("a", 1)
            assert await bodies(subscriber, 1) == [1]


async def test_people_see_who_is_in_and_that_it_adds_up(
    etcd: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        code = main(["fleet", *arguments, "--api", f"http://127.0.0.1:{fleet.apis['two']}"])
        return code, capsys.readouterr().out

    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two")) as fleet:
        fleet.start()
        async with fleet.subscriber("one", "a", group="g") as subscriber, fleet.publisher("two") as publisher:
            await publisher.publish("a", 1)
            await bodies(subscriber, 1)
            code, told = await asyncio.to_thread(run, "status")
            assert code == 0
            for name in fleet.names:
                assert f"{name}-{fleet.data}" in told
                assert f"zone-{name}" in told
            code, told = await asyncio.to_thread(run, "members")
            assert f"{subscriber.member}" in told
            assert f"one-{fleet.data}" in told
            assert "a (g)" in told
            metrics = await asyncio.to_thread(_metrics, fleet.apis["one"])
            assert f'tempos_fleet_brokers{{fleet="test-{fleet.data}"}} 2' in metrics
            await subscriber.drain()
        code, told = await asyncio.to_thread(run, "ledger", "--json")
        ledger = json.loads(told)
        assert code == 0, ledger
        assert ledger["balanced"]
        assert not ledger["away"]
        assert ledger["topics"]["a"]["received"] == ledger["topics"]["a"]["delivered"] == 1


def _metrics(api: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{api}/metrics", timeout=LIMIT) as answer:
        return str(answer.read().decode())


async def test_a_publisher_that_was_told_the_control_port_alone_is_told_the_data_port(
    etcd: Cluster, tmp_path: Path
) -> None:
    with ended(Fleet(tmp_path, etcd.endpoints, "one", "two")) as fleet:
        fleet.start()
        at = ",".join(f"{address}:{fleet.control}" for address in fleet.addresses.values())
        async with fleet.subscriber("two", "a") as subscriber, Publisher(at) as publisher:
            await publisher.publish("a", 1)
            assert await bodies(subscriber, 1) == [1]
            # Also where it goes on.
            first = publisher.id
            await _aside(lambda: fleet.end("one", how=signal.SIGKILL))
            while publisher.id == first:
                await asyncio.sleep(0.01)
            await publisher.publish("a", 2)
            assert await bodies(subscriber, 1) == [2]
