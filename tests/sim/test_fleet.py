"""Brokers of one fleet come to agree on its members, whatever becomes of the store."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import replace

import pytest
from support.fleet_world import TOPICS, come_to, holder, world
from support.waiting import LIMIT

from tempos import Prefer, Route
from tempos._awaitables import in_time
from tempos.session.core import ControlSession
from tempos_broker.account.accounts import Holder
from tempos_broker.broker import Broker
from tempos_broker.fleet import rows


async def test_three_hundred_members_at_once_are_members_everywhere() -> None:
    async with world(3) as fleet:
        for number in range(300):
            fleet.join(number % 3, number)
        await fleet.agree(600)
        for number in range(0, 300, 2):
            fleet.leave(number % 3, number)
        await fleet.agree(300)


async def test_who_waits_for_the_fleet_waits_until_all_have_it_in_force() -> None:
    async with world(3) as fleet:
        one = fleet.brokers[0].fleet
        assert one is not None
        fleet.ends[2].cut = True
        fleet.join(0, 1, "plant/a")
        noted = one.noted
        # It is told of at once, and one of the two others has it.
        await come_to(lambda: one.confirmed(holder(1))[1] == 2, lambda: one.confirmed(holder(1)))
        waiting = asyncio.create_task(one.settle(noted, LIMIT))
        await asyncio.sleep(0)
        assert one.is_coming(holder(1))
        fleet.join(0, 2, "plant/b")
        await come_to(lambda: len(fleet.seen(1)) == 2, lambda: fleet.seen(1))
        assert not waiting.done()
        fleet.ends[2].cut = False
        await waiting
        assert one.confirmed(holder(1))[1:3] == (3, 3)
        assert not one.is_coming(holder(1))
        assert ("plant/a", "g1", holder(1)) in fleet.seen(2)


async def test_a_member_hears_that_the_fleet_has_it_once_however_often_it_asks() -> None:
    async with world(3) as fleet:
        port, now = fleet.brokers[0]._port, asyncio.get_running_loop().time
        session = ControlSession(client=9, broker="b1", port=5009)
        session.hears, session._proof = [each.fleet.me.number for each in fleet.brokers if each.fleet], None
        answers: list[bytes] = []

        def ask(times: int = 1) -> None:
            for datagram in session.datagrams_to_send(now()):
                for _ in range(times):
                    port._receive(datagram, "127.0.0.1", "127.0.78.1", lambda told, **_: answers.append(told))

        async def told() -> tuple[int, ...]:
            """What the next answer says of the fleet."""
            await come_to(lambda: answers, lambda: port._control.served)
            session.receive_datagram(answers.pop(0), now())
            assert session._roll.fleet is not None
            return session._roll.fleet[1:]

        fleet.ends[2].cut = True
        session.subscribe(["plant/a"], "g", now())
        ask(times=2)
        assert port._control.served["subscribe"] == 2
        (has, of), looks = await told(), 0
        while has < 2 or looks < 2:
            # What is new is told at once, and then who has it in force as soon as the next one does.
            looks, session._look_at = looks + 1, now()
            ask()
            has, of = await told()
        assert (has, of, answers) == (2, 3, [])
        session._look_at = now()
        ask(times=2)
        await asyncio.sleep(0)
        assert not answers
        fleet.ends[2].cut = False
        has, of = await told()
        assert not answers
        while has < 3:
            session._look_at = now()
            ask()
            has, of = await told()
        assert ("plant/a", "g", Holder("127.0.0.1", 5009, 9)) in fleet.seen(2)


async def test_more_members_of_one_broker_than_a_transaction_holds_come_and_go() -> None:
    async with world(2) as fleet:
        for number in range(250):
            fleet.join(0, number, "plant/a")
        await fleet.agree(250)
        for number in range(250):
            fleet.leave(0, number)
        await fleet.agree(0)


@pytest.mark.parametrize("halfway", ["before it", "in it"])
async def test_a_swap_is_made_whole_though_the_broker_is_lost_to_its_fleet_meanwhile(halfway: str) -> None:
    async with world(2) as fleet:
        two = fleet.brokers[1]
        assert two.fleet is not None
        begun, goes_on = asyncio.Event(), asyncio.Event()
        swapped: list[int] = []
        swap, keep_wants = two._slow.swap, two._routes.keep_wants

        async def halt() -> None:
            begun.set()
            await goes_on.wait()

        async def kept() -> None:
            await keep_wants()
            if halfway == "before it":
                await halt()

        async def swapped_to(*routes: Route) -> None:
            swapped.extend(route.epoch for route in routes)
            await swap(*routes)
            if halfway == "in it":
                await halt()

        two._routes.keep_wants = kept  # type: ignore[method-assign]
        two._slow.swap = swapped_to  # type: ignore[method-assign]
        fleet.join(0, 1, "plant/a")
        await in_time(begun.wait(), LIMIT)
        # Its lease has ended, for the store did not hear of it: it hears of that, and begins anew.
        fleet.memory.end(two.fleet._lease)

        async def lost() -> None:
            while two.fleet is not None and "b2" in two.fleet.view.brokers:
                await asyncio.sleep(0)

        async def back() -> None:
            while two.fleet is None or two.fleet.away or not two.fleet.ready:
                await asyncio.sleep(0.01)

        await in_time(lost(), LIMIT)
        for _ in range(100):
            await asyncio.sleep(0)
        goes_on.set()
        await in_time(back(), LIMIT)
        # Each epoch was in force once: the tickets of one that events were sent in must not begin anew.
        assert swapped == sorted(set(swapped))
        lease = two._registry.lease_of(holder(1))
        # And the member is told.
        assert lease is not None
        assert [topic for topic, _ in lease.since(0)] == [1]


async def test_one_that_was_cut_off_goes_by_what_holds_then_compacted_or_not() -> None:
    async with world(2) as fleet:
        for number in range(20):
            fleet.join(0, number)
        await fleet.agree(40)
        for compact in (False, True):
            fleet.ends[1].cut = True
            for number in range(10):
                fleet.leave(0, number)
            await asyncio.sleep(0)
            if compact:
                fleet.memory.compact()
            fleet.ends[1].cut = False
            await fleet.agree(20)
            for number in range(10):
                fleet.join(0, number)
            await fleet.agree(40)


async def test_whatever_becomes_of_the_store_all_agree_in_the_end() -> None:
    async with world(3, delay=0.02) as fleet:
        chance = random.Random(11)
        there: dict[int, tuple[int, int, str]] = {}
        # Who comes again is another client.
        numbers = itertools.count()
        for _ in range(300):
            place = chance.randrange(60)
            if fleet.disturb(chance, 12):
                pass
            elif place in there:
                at, number, _ = there.pop(place)
                fleet.leave(at, number)
            else:
                there[place] = chance.randrange(3), next(numbers), chance.choice(("plant/a", "plant/b"))
                fleet.join(*there[place])
            await asyncio.sleep(0.002)
        fleet.calm()

        def heartbeats() -> None:
            for each in there.values():
                fleet.heartbeat(*each)

        await fleet.agree(len(there), heartbeats)


@pytest.mark.parametrize("heard", [True, False], ids=["heard of before", "news still"])
async def test_who_leaves_as_soon_as_it_has_come_is_gone_everywhere(heard: bool) -> None:
    async with world(2, delay=0.05) as fleet:

        async def written(key: str, before: int) -> int:
            while (entry := fleet.memory.entries.get(key)) is None or entry.revision == before:
                await asyncio.sleep(0)
            return entry.revision

        for number in range(20):
            fleet.join(0, number)
        if heard:
            await fleet.agree(40)
        for number in range(20):
            key = rows.key_of(holder(number))
            before = await in_time(written(key, 0), LIMIT)
            fleet.join(1, number)
            await in_time(written(key, before), LIMIT)
            # Its broker has written that it is its home, and not heard of that itself.
            fleet.leave(1, number)
        await fleet.agree(0)


async def test_a_store_that_has_lost_everything_is_told_again_and_goes_on_from_there() -> None:
    async with world(2, revision=1000) as fleet:
        for number in range(5):
            fleet.join(number % 2, number)
        await fleet.agree(10)
        fleet.memory.lose()
        seen = [fleet.seen(at) for at in range(2)]

        def kept() -> None:
            assert all(fleet.seen(at) >= seen[at] for at in range(2))

        async def noticed() -> None:
            while any(each.fleet is None or each.fleet.view.revision >= 1000 for each in fleet.brokers):
                kept()
                await asyncio.sleep(0.01)

        # Nobody is taken out for it, and whoever comes next is not taken for one of a former life.
        await in_time(noticed(), LIMIT)
        for number in range(5, 10):
            fleet.join(number % 2, number)
        await fleet.agree(20, kept)
        assert fleet.memory.revision < 1000


async def test_who_comes_to_another_broker_is_at_home_there_without_a_new_route() -> None:
    async with world(2) as fleet:
        fleet.join(0, 1, "plant/a")
        await fleet.agree(1)
        await asyncio.gather(*(each._routes.swap_all((1,)) for each in fleet.brokers))
        epochs = [each._routes.epoch(1) for each in fleet.brokers]
        fleet.join(1, 1, "plant/a")
        one = fleet.brokers[0]

        async def wait() -> None:
            while one._registry.lease_of(Holder("10.0.0.2", 5000, 2)).home != "b2":  # type: ignore[union-attr]
                await asyncio.sleep(0.01)

        await in_time(wait(), LIMIT)
        await fleet.agree(1)
        assert [each._routes.epoch(1) for each in fleet.brokers] == epochs


async def test_members_of_the_brokers_zone_go_first_as_long_as_there_are_any() -> None:
    topics = (replace(TOPICS[0], prefer=Prefer.ZONE), TOPICS[1])
    async with world(3, topics=topics) as fleet:

        async def served(topic: int, *wanted: tuple[int, ...]) -> None:
            """Each broker comes to send a topic to these members of the group, by number."""

            def now(broker: Broker) -> list[int]:
                await_swap = broker._routes.is_due(topic)
                groups = broker._routes.states[topic].route.groups
                return [-1] if await_swap else sorted(
                    int(member.ip.rpartition(".")[2]) - 1 for group in groups for member in group.members
                )  # fmt: skip

            async def wait() -> None:
                while [now(each) for each in fleet.brokers] != [list(each) for each in wanted]:
                    for each in fleet.brokers:
                        await each._routes.swap_all([topic])
                    await asyncio.sleep(0.01)

            try:
                await in_time(wait(), LIMIT)
            except asyncio.TimeoutError:
                pytest.fail(str([now(each) for each in fleet.brokers]))

        # Brokers 0 and 1 are in the north, 2 is in the south; members 8 and 16 are of one group.
        for number, at in ((8, 0), (16, 2)):
            for topic in topics:
                fleet.join(at, number, topic.name)
        await served(2, (8, 16), (8, 16), (8, 16))
        await served(1, (8,), (8,), (16,))
        assert fleet.brokers[0].topic("plant/a")["passed_over"] == {"g0": 1}
        assert fleet.brokers[0].topic("plant/b")["passed_over"] == {}
        # Its home is another one: so is its zone.
        fleet.join(2, 8, "plant/a")
        fleet.join(2, 8, "plant/b")
        await served(1, (8, 16), (8, 16), (8, 16))
        fleet.join(1, 8, "plant/a")
        await served(1, (8,), (8,), (16,))
        # There is nobody near.
        fleet.leave(1, 8)
        await served(1, (16,), (16,), (16,))
        assert fleet.brokers[0].topic("plant/a")["passed_over"] == {}
