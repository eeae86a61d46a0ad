"""``tempos demo fleet``: three brokers, one bus; one of them is killed under traffic, and comes back.

Members are at home at each, in one group. Whoever publishes knows two of the brokers. All on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tempos import Publisher, Quality, Subscriber, Topic
from tempos._awaitables import in_time
from tempos_bench.fleet.ground import Ground, ground
from tempos_bench.nodes.patience import patience
from tempos_bench.report.figures import table

TOPIC = Topic(id=1, name="demo", quality=Quality.SQ)
RATE = 500.0
#: Seconds of traffic before the kill, and after everything is well again.
_BEFORE, _AFTER = 3.0, 3.0
_LIMIT = 30.0


@dataclass(frozen=True, slots=True)
class Shown:
    """What came of it. Times in seconds since the kill."""

    confirmed: tuple[int, int]
    sent: int
    received: int
    doubled: int
    #: Events that the killed broker may have had, and that nobody got.
    lost: int
    at_risk: int
    moved: float
    found_home: float
    back: float
    by_member: dict[str, int]
    balanced: bool

    @property
    def sound(self) -> bool:
        """Whether only what was on its way in the killed broker is lost, nothing twice, and all adds up."""
        return not self.doubled and self.lost <= self.at_risk and self.balanced


def run(progress: Callable[[str], None]) -> Shown:
    """Show it; raises :class:`Unavailable` where something is missing for it."""
    progress("three brokers, one etcd")
    with ground([TOPIC], lease=4.0) as made:
        return asyncio.run(_play(made, progress))


async def _play(made: Ground, progress: Callable[[str], None]) -> Shown:
    control = made.control
    async with contextlib.AsyncExitStack() as stack:
        members = [
            await stack.enter_async_context(
                Subscriber(address, TOPIC.name, group="workers", control_port=control)
            )
            for address in made.addresses
        ]
        got: Counter[int] = Counter()
        counts: Counter[str] = Counter()

        async def take(name: str, member: Subscriber) -> None:
            async for event in member:
                got[int(event.unpack())] += 1
                counts[name] += 1

        tasks = [
            asyncio.ensure_future(take(f"at home at {made.name(number)}", member))
            for number, member in enumerate(members)
        ]
        publisher = await stack.enter_async_context(
            Publisher(made.addresses[:2], data_port=made.data, control_port=control)
        )
        confirmed = members[-1].fleet
        assert confirmed is not None, "they are in one"
        sent: list[tuple[float, int]] = []
        going = True

        async def publish() -> None:
            began = time.monotonic()
            while going:
                await publisher.publish(TOPIC.name, len(sent))
                sent.append((time.monotonic(), publisher.id))
                await asyncio.sleep(max(0.0, began + len(sent) / RATE - time.monotonic()))

        publishing = asyncio.ensure_future(publish())
        progress(f"{RATE:,.0f} events/s to three members of one group")
        await asyncio.sleep(_BEFORE)
        first = publisher.id
        progress(f"{made.name(0)} is killed")
        killed = time.monotonic()
        await asyncio.to_thread(made.kill, 0)
        while publisher.id == first:
            await asyncio.sleep(0.005)
        moved = time.monotonic() - killed
        progress(f"the publisher has gone on at {made.name(1)} after {moved:.2f} s")
        await _until(lambda: members[0]._others.home_at is not None)
        found_home = time.monotonic() - killed
        progress(f"the member that was at home there has another home after {found_home:.2f} s")
        second = publisher.id
        progress(f"{made.name(0)} is started again")
        await asyncio.to_thread(made.start, 0)
        await _until(lambda: publisher.id != second and members[0]._others.home_at is None)
        back = time.monotonic() - killed
        progress(f"both are back after {back:.2f} s")
        await asyncio.sleep(_AFTER)
        going = False
        await publishing
        await _until(lambda: len(got) + _at_risk(sent, first, killed) >= len(sent))
        # What comes twice would come now.
        await asyncio.sleep(0.5)
        for member in members:
            await member.drain()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sums = await asyncio.to_thread(made.account, TOPIC.name)
    return Shown(
        (confirmed.confirmed, confirmed.brokers), len(sent), len(got), sum(got.values()) - len(got),
        len(sent) - len(got), _at_risk(sent, first, killed), moved, found_home, back,
        dict(sorted(counts.items())), not sums["problems"],
    )  # fmt: skip


def _at_risk(sent: list[tuple[float, int]], first: int, killed: float) -> int:
    """Events that went to the killed broker after it was killed, or in its last moment."""
    return sum(when > killed - 0.1 for when, publisher in sent if publisher == first)


async def _until(condition: Callable[[], Any]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.02)

    await in_time(wait(), patience(_LIMIT))


def as_text(shown: Shown) -> str:
    """For people."""
    rows = [
        ("brokers that confirmed each member", f"{shown.confirmed[0]} of {shown.confirmed[1]}"),
        ("events sent", f"{shown.sent:,}"),
        ("received", f"{shown.received:,}"),
        ("received twice", f"{shown.doubled:,}"),
        ("lost in the killed broker", f"{shown.lost:,} (it may have had {shown.at_risk:,})"),
        ("publisher at the next broker after", f"{shown.moved:.2f} s"),
        ("member at another home after", f"{shown.found_home:.2f} s"),
        ("both back after", f"{shown.back:.2f} s"),
        *((f"member {name}", f"{count:,} events") for name, count in shown.by_member.items()),
        ("accounts of all brokers", "balanced" if shown.balanced else "NOT BALANCED"),
    ]
    return table(("three brokers, one bus", ""), rows)
