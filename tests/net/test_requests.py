"""Requests and replies across three nodes, on every data path: what was asked, answered and lost adds up.

Every way of the data path is used: the slow path compiled and portable, by a worker for SQ, XDP in native and
generic mode, a broadcast, tc. Requests are lost on the way to the broker, and a reply is too big on its last
leg.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import pytest
from support.bpf import require_compiler
from support.lossy import AT, EVERY, loses_events
from support.nodes import configure
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT

from tempos import Fanout, LocalError, NoMember, NoReply, Path, Quality, Topic
from tempos.blocking import Publisher, Subscriber
from tempos_bench.measure.broker import Broker, TopicStatus
from tempos_bench.nodes.topology import Topology, build

pytestmark = pytest.mark.netns

ASKED = Topic(id=7, name="asked", quality=Quality.SQ)
#: Of an id that takes a header of its own.
WIDE = 40_000
WORKER = {"worker_sq": True, "priority_sq": 0}
#: Options of the broker, who makes copies for groups, and how many of these there are; those that say so with
#: a wide topic.
WAYS = {
    "slow": ({"mode": "off"}, Fanout.AUTO, 1),
    "slow, any address": ({"mode": "off", "listen": ("0.0.0.0",)}, Fanout.AUTO, 1),
    "portable, three groups": ({"mode": "off", "portable": True}, Fanout.AUTO, 3),
    "worker, wide": ({"mode": "off", "quality": WORKER}, Fanout.AUTO, 1),
    "generic": ({"mode": "generic"}, Fanout.AUTO, 1),
    "native": ({"mode": "native"}, Fanout.AUTO, 1),
    "native, any address": ({"mode": "native", "listen": ("0.0.0.0",)}, Fanout.AUTO, 1),
    "native with worker": ({"mode": "native", "quality": WORKER}, Fanout.AUTO, 1),
    "native, wide": ({"mode": "native"}, Fanout.AUTO, 1),
    "broadcast": ({"mode": "native"}, Fanout.XDP, 3),
    "tc, wide": ({"mode": "native"}, Fanout.TC, 3),
}
REQUESTS, LOSSY = 240, 48


def wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def answer(sub: Subscriber) -> None:
    """Every request with what it says, thrice, and what is asked in bytes with so many of them."""
    # Until the subscriber is closed, which is what ends it.
    with suppress(LocalError):
        for event in sub:
            asked = event.unpack()
            event.reply(bytes(asked) if asked > 1000 else [asked] * 3)


@contextmanager
def answering(topology: Topology, groups: int) -> Iterator[list[Subscriber]]:
    """One member in each of so many groups, and a thread for each that answers."""
    subs = [
        topology.subscriber.call(
            lambda group=f"g{number}": Subscriber(  # type: ignore[misc]
                topology.facing_subscriber, ASKED.name, group=group
            ).__enter__()
        )
        for number in range(groups)
    ]
    threads = [threading.Thread(target=answer, args=(sub,)) for sub in subs]
    for thread in threads:
        thread.start()
    try:
        yield subs
    finally:
        for sub in subs:
            sub.close()
        for thread in threads:
            thread.join(LIMIT)


@pytest.mark.parametrize("way", WAYS)
def test_everything_asked_is_answered_or_lost_and_counted(way: str) -> None:
    options, fanout, groups = WAYS[way]
    fast = options["mode"] != "off"
    topic = replace(ASKED, fanout=fanout, id=WIDE if way.endswith("wide") else ASKED.id)
    require_netns()
    require_compiler()
    if fast:
        require_kernel()
    with build("straight") as topology, ExitStack() as stack:
        broker = stack.enter_context(
            Broker(topology.broker, {topic: ()}, **options)  # type: ignore[arg-type]
        )

        def asker() -> Publisher:
            made = topology.publisher.call(lambda: Publisher(topology.broker.address).__enter__())
            stack.callback(made.close)
            return made

        pub = asker()
        with pytest.raises(NoMember):
            pub.request(ASKED.name, 1, timeout=LIMIT)
        with answering(topology, groups) as subs, ThreadPoolExecutor(8) as threads:
            path = Path.FAST if fast else Path.SLOW
            broker.wait_path(ASKED.name, path)

            def ask(number: int) -> object:
                return pub.request(ASKED.name, number, timeout=LIMIT).unpack()

            assert list(threads.map(ask, range(REQUESTS))) == [[number] * 3 for number in range(REQUESTS)]
            wait(lambda: pub.requests.further == REQUESTS * (groups - 1))
            stats = pub.requests
            assert (stats.answered, stats.refused, stats.requests) == (REQUESTS, 1, REQUESTS + 1)

            # Requests that are lost on the way to the broker end in time, and no other does. One after the
            # other, for several of one turn leave as one buffer, of which the interface sees the first.
            loses_events(topology.publisher, topology.publisher.interfaces[0])
            other = asker()

            def ask_again(number: int) -> str:
                try:
                    right = other.request(ASKED.name, number, timeout=1).unpack() == [number] * 3
                except NoReply:
                    return "lost"
                return "answered" if right else "wrong"

            became = Counter(map(ask_again, range(LOSSY)))
            lost = len(range(AT, LOSSY, EVERY))
            # On a starved machine an answer may be late, and is counted as that.
            wait(lambda: (other.requests.timeouts - lost) * groups == other.requests.late)
            in_time, timeouts = other.requests.answered, other.requests.timeouts
            assert became == {"answered": in_time, "lost": timeouts}
            assert (in_time + timeouts, other.requests.requests) == (LOSSY, LOSSY)
            assert timeouts >= lost

            # A reply that the last leg does not carry: the asker is told.
            configure(
                topology.broker,
                lambda netlink: netlink.link("set", index=netlink.link_lookup(ifname="eth0")[0], mtu=1200),
            )
            broker.wait_path(ASKED.name, path)
            with pytest.raises(NoReply, match="too big for the way"):
                other.request(ASKED.name, 1300, timeout=LIMIT)
            wait(lambda: other.requests.further == (in_time + 1) * (groups - 1))
            # Who has sent a reply counts it then; the asker may have it by now.
            wait(lambda: sum(sub.stats.replies for sub in subs) == groups * (REQUESTS + LOSSY - lost + 1))
            assert [sub.stats.requests for sub in subs] == [REQUESTS + LOSSY - lost + 1] * groups

        def settled() -> TopicStatus:
            return broker.topic(ASKED.name)

        events = REQUESTS + LOSSY - lost + 1
        wait(lambda: all(group.delivered == events for group in settled().groups))
        status = settled()
        assert status.closed, status.problems
        # The first found nobody; replies that are sent on are no events, and are not among them.
        assert status.refused == {"no_member": 1, "reply_unsent": groups}
        assert status.received == events + 1 + groups
        assert (status.fast if fast else status.slow) == events
        assert [(group.tickets, group.lost) for group in status.groups] == [(events, 0)] * groups
        assert status.replies == groups * (events - 1)
        if fast:
            assert status.passed["reply"] == groups * events
