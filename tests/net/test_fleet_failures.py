"""What becomes of a fleet when something of it is gone: an etcd of three nodes, on a network to be cut."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.fleet_net import BROKERS, Field, aside, field, publisher, seen, subscriber
from support.privileges import require_netns
from support.waiting import LIMIT, until

from tempos import NoAnswer, Publisher, Subscriber
from tempos._awaitables import in_time

pytestmark = pytest.mark.netns


@pytest.fixture(autouse=True)
def _netns(caplog: pytest.LogCaptureFixture) -> None:
    require_netns()
    # What fails now and then is to tell why.
    caplog.set_level(logging.INFO, "tempos")


class Stream:
    """Events numbered from 0, published one after the other while it is open, and taken by subscribers."""

    def __init__(self, publisher: Publisher, *subscribers: Subscriber) -> None:
        self.sent = 0
        self.taken: list[list[int]] = [[] for _ in subscribers]
        self._publisher = publisher
        self._subscribers = subscribers
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Stream:
        self._tasks = [
            asyncio.ensure_future(self._send()),
            *(
                asyncio.ensure_future(self._take(*each))
                for each in zip(self._subscribers, self.taken, strict=True)
            ),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self) -> None:
        while True:
            # Where no broker is left that could be asked.
            with contextlib.suppress(NoAnswer):
                await self._publisher.publish("a", self.sent)
                self.sent += 1
            await asyncio.sleep(0.01)

    async def _take(self, subscriber: Subscriber, taken: list[int]) -> None:
        async for event in subscriber:
            number = event.unpack()
            assert isinstance(number, int)
            taken.append(number)

    async def flows(self, *indices: int) -> None:
        """What is sent from now on reaches each of these subscribers, or each there is."""
        first = self.sent

        async def wait() -> None:
            for index in indices or range(len(self.taken)):
                while not any(number >= first for number in self.taken[index][-50:]):
                    for task in self._tasks:
                        if task.done():
                            task.result()
                    await asyncio.sleep(0.02)

        await in_time(wait(), LIMIT)


async def comes(pub: Publisher, stream: Stream, event: int) -> None:
    """Publish it, and again while no member was heard at that broker, until it has come to the first one."""
    for _ in range(20):
        await pub.publish("a", event)
        with contextlib.suppress(AssertionError):
            await aside(until, lambda: event in stream.taken[0], "", 3.0)
            return
    await seen(lambda: event in stream.taken[0])


def none_twice(*taken: Iterable[int]) -> None:
    for each in taken:
        numbers = list(each)
        assert len(set(numbers)) == len(numbers)


def test_a_broker_that_is_gone_takes_no_events_of_the_others_with_it(tmp_path: Path) -> None:
    with field(tmp_path) as fleet:

        async def clients() -> None:
            async with (
                subscriber("one") as at_home,
                subscriber("two") as elsewhere,
                publisher("three") as pub,
                Stream(pub, at_home, elsewhere) as stream,
            ):
                await stream.flows()
                await aside(fleet.end, "one")
                await seen(lambda: fleet.home_of(at_home, "three") in ("two", "three"))
                await aside(fleet.agree)
                await stream.flows()
                first = stream.sent
                assert fleet.members("two") == fleet.members("three") == 2
                await aside(fleet.start, "one")
                await seen(lambda: fleet.home_of(at_home, "three") == "one")
                await stream.flows()
            # It was published at a broker that lived on: nothing of it may lack, or come twice.
            for taken in stream.taken:
                none_twice(taken)
                assert taken[: first + 1] == list(range(first + 1))

        fleet.play(clients)


def test_a_member_that_is_gone_is_out_everywhere_when_its_lease_ends(tmp_path: Path) -> None:
    with field(tmp_path, lease=2) as fleet:

        async def clients() -> None:
            dies = subscriber("one")
            await dies.__aenter__()
            async with subscriber("two") as stays, publisher("three") as pub, Stream(pub, stays) as stream:
                await stream.flows()
                await fall_silent(dies)
                await seen(lambda: all(fleet.members(name) == 1 for name in BROKERS))
                await stream.flows()
                none_twice(*stream.taken)
                assert stream.taken[0] == list(range(len(stream.taken[0])))
            await dies.close()

        fleet.play(clients)


async def fall_silent(subscriber: Subscriber) -> None:
    """As one that is killed: it says nothing any more to anybody."""
    guard = subscriber._others._guard
    if guard is not None:
        guard.cancel()
    for link in (subscriber._link, *(each._link for each in subscriber._others._satellites.values())):
        assert link is not None
        await link.close()


def test_a_member_that_is_gone_with_its_home_is_out_when_the_homes_lease_ends(tmp_path: Path) -> None:
    with field(tmp_path, lease=2) as fleet:

        async def clients() -> None:
            dies = subscriber("one")
            await dies.__aenter__()
            async with subscriber("two") as stays, publisher("three") as pub, Stream(pub, stays) as stream:
                await stream.flows()
                await fall_silent(dies)
                await aside(fleet.end, "one")
                await seen(lambda: fleet.members("two") == fleet.members("three") == 1)
                await stream.flows()
                none_twice(*stream.taken)
                assert stream.taken[0] == list(range(len(stream.taken[0])))
                # Nor does the broker bring it back when it goes on with what it remembers.
                await aside(fleet.start, "one")
                assert fleet.members("two") == fleet.members("three") == 1
                await seen(lambda: fleet.members("one") == 1)
            await dies.close()

        fleet.play(clients)


def test_one_node_of_the_store_may_be_gone_and_all_goes_on(tmp_path: Path) -> None:
    with field(tmp_path) as fleet:

        async def clients() -> None:
            async with subscriber("one") as sub, publisher("three") as pub, Stream(pub, sub) as stream:
                for name in BROKERS:
                    await aside(fleet.end_etcd, name)
                    async with subscriber("two") as more:
                        await seen(lambda: all(fleet.members(each) == 2 for each in BROKERS))
                        assert more.fleet is not None
                    await seen(lambda: all(fleet.members(each) == 1 for each in BROKERS))
                    await aside(fleet.start_etcd, name)
                await stream.flows()
                none_twice(*stream.taken)
                assert stream.taken[0] == list(range(len(stream.taken[0])))

        fleet.play(clients)


@pytest.mark.parametrize("lost", [("one", "two"), ("one", "two", "three")])
def test_without_its_store_what_is_in_force_stays(lost: tuple[str, ...], tmp_path: Path) -> None:
    with field(tmp_path) as fleet:

        async def clients() -> None:
            async with subscriber("one") as sub, publisher("three") as pub, Stream(pub, sub) as stream:
                await aside(fleet.end_etcd, *lost)
                await seen(lambda: all(fleet.fleet(name)["registry"] == "away" for name in BROKERS))
                await stream.flows()
                async with subscriber("three") as late:
                    # It is told that nobody but its home has heard of it.
                    assert late.fleet == (1, 3)
                    assert fleet.members("three") == 2
                    assert fleet.members("one") == 1
                    await aside(fleet.start_etcd, *lost)
                    await seen(lambda: all(fleet.members(each) == 2 for each in BROKERS))
                    await stream.flows()
                none_twice(*stream.taken)
                assert stream.taken[0] == list(range(len(stream.taken[0])))

        fleet.play(clients)


def test_a_broker_that_is_gone_with_the_majority_of_the_store(tmp_path: Path) -> None:
    with field(tmp_path) as fleet:

        async def clients() -> None:
            async with (
                subscriber("one") as sub,
                publisher("three") as pub,
                Stream(pub, sub) as stream,
            ):
                await stream.flows()
                # Two machines lose their power, one of them had a broker that is somebody's home.
                await aside(fleet.end, "one")
                await aside(fleet.end_etcd, "one", "two")
                await seen(lambda: fleet.fleet("three")["registry"] == "away")
                await stream.flows()
                # Its new home keeps it, and nobody else can be told of that.
                await aside(fleet.start_etcd, "one", "two")
                await aside(fleet.agree)
                await seen(lambda: fleet.home_of(sub, "three") in ("two", "three"))
                await stream.flows()
                await aside(fleet.start, "one")
                await seen(lambda: fleet.home_of(sub, "three") == "one")
                await stream.flows()
                none_twice(*stream.taken)
                assert stream.taken[0] == list(range(len(stream.taken[0])))

        fleet.play(clients)


def test_everything_at_once_and_up_again(tmp_path: Path) -> None:
    with field(tmp_path) as fleet:

        async def clients() -> None:
            async with (
                subscriber("one", "two") as sub,
                publisher("three", "two") as pub,
                Stream(pub, sub) as stream,
            ):
                await stream.flows()
                await aside(fleet.end)
                await aside(fleet.end_etcd)
                # Brokers are there before the store is.
                await aside(lambda: fleet.start(registered=False))
                await aside(fleet.start_etcd)
                await aside(fleet.agree)
                await seen(lambda: all(fleet.members(each) == 1 for each in BROKERS))
                await stream.flows()
                none_twice(*stream.taken)

        fleet.play(clients)


#: Where the link is down nothing passes either way.
CUTS = {
    "nothing leaves it": (("one", "any"),),
    "nothing reaches it": (("any", "one"),),
}


def cut_off(fleet: Field, how: str) -> None:
    if how == "its link is down":
        fleet.unplug("one")
    for each in CUTS.get(how, ()):
        fleet.cut(*each)


def join_again(fleet: Field, how: str) -> None:
    if how == "its link is down":
        fleet.plug("one")
    for each in CUTS.get(how, ()):
        fleet.mend(*each)


@pytest.mark.parametrize("how", ["its link is down", *CUTS])
def test_a_broker_that_is_cut_off_is_as_one_that_is_gone(how: str, tmp_path: Path) -> None:
    with field(tmp_path) as fleet:

        async def clients() -> None:
            async with (
                subscriber("one", "two") as sub,
                publisher("one", "two") as pub,
                publisher("three") as third,
                Stream(third, sub) as stream,
            ):
                await pub.publish("a", -1)
                first = pub.id
                await aside(cut_off, fleet, how)
                number = -2
                while pub.id == first:
                    await pub.publish("a", number)
                    number -= 1
                    await asyncio.sleep(0.01)
                await seen(lambda: fleet.home_of(sub, "three") in ("two", "three"))
                await seen(lambda: fleet.known("two") == fleet.known("three") == ["three", "two"])
                await stream.flows()
                second = pub.id
                await aside(join_again, fleet, how)
                await aside(fleet.agree)
                await seen(lambda: fleet.home_of(sub, "three") == "one")
                while pub.id == second:
                    await pub.publish("a", number)
                    number -= 1
                    await asyncio.sleep(0.01)
                await stream.flows()
                none_twice(*stream.taken)
                through = [number for number in stream.taken[0] if number >= 0]
                # What was published at a broker that nobody cut off came whole.
                assert through == list(range(len(through)))

        fleet.play(clients)


@pytest.mark.parametrize(
    "cuts",
    [
        (("one", "two"), ("one", "three"), ("two", "one"), ("three", "one")),
        (("one", "two"), ("one", "three")),
        (("two", "one"), ("three", "one")),
    ],
    ids=["both ways", "nothing leaves it", "nothing reaches it"],
)
def test_a_broker_that_loses_the_others_and_the_store_serves_its_members(
    cuts: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    with field(tmp_path) as fleet:

        async def clients() -> None:
            async with (
                subscriber("one") as sub,
                subscriber("two") as elsewhere,
                publisher("one") as pub,
                Stream(pub, sub, elsewhere) as stream,
            ):
                await stream.flows()
                for each in cuts:
                    await aside(fleet.cut, *each)
                await seen(lambda: fleet.fleet("one")["registry"] == "away")
                # For the others it is gone, and with it who is at home there.
                await seen(lambda: fleet.known("two") == fleet.known("three") == ["three", "two"])
                # Who is at home elsewhere hears of that, and hears that broker all the same.
                await seen(lambda: elsewhere.fleet is not None and elsewhere.fleet.brokers == 2)
                await stream.flows()
                assert fleet.members("one") == 2
                for each in cuts:
                    await aside(fleet.mend, *each)
                await aside(fleet.agree)
                await seen(lambda: all(fleet.members(each) == 2 for each in BROKERS))
                await stream.flows()
            for taken in stream.taken:
                none_twice(taken)
                assert taken == list(range(len(taken)))

        fleet.play(clients)


@pytest.mark.parametrize(
    "cuts", [(("two", "clients"), ("clients", "two")), (("clients", "two"),), (("two", "clients"),)],
    ids=["both ways", "nothing reaches the broker", "nothing reaches the member"],
)  # fmt: skip
def test_a_member_that_a_broker_does_not_reach_is_out_there_alone(
    cuts: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    with field(tmp_path, lease=2) as fleet:

        async def clients() -> None:
            async with subscriber("one") as sub, publisher("three") as pub, Stream(pub, sub) as stream:
                await stream.flows()
                for each in cuts:
                    await aside(fleet.cut, *each)
                if cuts[0][0] == "clients" or len(cuts) > 1:
                    await seen(lambda: fleet.members("two") == 0)
                await stream.flows()
                assert fleet.members("one") == fleet.members("three") == 1
                for each in cuts:
                    await aside(fleet.mend, *each)
                await seen(lambda: fleet.members("two") == 1)
                async with publisher("two") as there:
                    # A machine that stands still may take it out there once more, for a moment.
                    await comes(there, stream, 1 << 40)

        fleet.play(clients)


def test_a_broker_that_stood_still_for_longer_than_its_lease_sends_what_waited_to_who_is_there(
    tmp_path: Path,
) -> None:
    waited = 50
    with field(tmp_path, lease=2) as fleet:

        async def clients() -> None:
            async with (
                subscriber("one", "two") as at_home,
                subscriber("two") as elsewhere,
                publisher("three") as pub,
                publisher("one") as knows_no_other,
                Stream(pub, at_home, elsewhere) as stream,
            ):
                await stream.flows()
                await knows_no_other.publish("a", -1)
                await seen(lambda: all(-1 in taken for taken in stream.taken))
                departs = await subscriber("two").__aenter__()
                assert all(fleet.members(name) == 3 for name in BROKERS)
                fleet.signal("one", signal.SIGSTOP)
                await seen(lambda: fleet.known("two") == fleet.known("three") == ["three", "two"])
                await seen(lambda: fleet.home_of(at_home, "three") in ("two", "three"))
                await seen(lambda: elsewhere.fleet is not None and elsewhere.fleet.brokers == 2)
                await departs.drain()
                assert fleet.members("two") == fleet.members("three") == 2
                for number in range(waited):
                    await knows_no_other.publish("a", -2 - number)
                async with subscriber("three") as comes:
                    await stream.flows()
                    fleet.signal("one", signal.SIGCONT)
                    await aside(fleet.agree)
                    await seen(lambda: fleet.home_of(at_home, "three") == "one")
                    await seen(lambda: all(fleet.members(name) == 3 for name in BROKERS))
                    await stream.flows()
                    await knows_no_other.publish("a", -2 - waited)
                    await seen(lambda: all(-2 - waited in taken for taken in stream.taken))
                    await until_body(comes, -2 - waited)
                for taken in stream.taken:
                    none_twice(taken)
                    assert [number for number in taken if number < 0] == list(range(-1, -3 - waited, -1))
                    through = [number for number in taken if number >= 0]
                    assert through == list(range(len(through)))
            # It was sent to the one that had left, too, for nothing was heard of that: it is told as lost.
            await seen(lambda: fleet.account("one")[2] == waited)
            await seen(lambda: fleet.account("two", "three")[2] == 0)

        fleet.play(clients)


async def until_body(subscriber: Subscriber, body: int) -> None:
    while (await subscriber.next(LIMIT)).unpack() != body:
        pass
