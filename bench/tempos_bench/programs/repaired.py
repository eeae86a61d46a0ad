"""Members behind links that lose, and what each event took: `python -m tempos_bench.programs.repaired`.

Has `--groups` groups of `--members` members. Prints `ready`; then reads a JSON line, {"sent": n}: when every
group has `n` events, or none comes for `--idle` seconds, it prints one JSON object. Times are from sending to
this program, of events that were lost on no leg, before the broker, behind it; which is known by their
numbers (see ``measure.lossy``).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from array import array
from typing import Any

import uvloop

from tempos import Subscriber
from tempos_bench.measure.lossy import is_lost
from tempos_bench.measure.stats import percentile
from tempos_bench.nodes.patience import patience


class Group:
    """What one group got: by number, how often, by which member, and how long it took (ns)."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.times = bytearray(count)
        self.member = bytearray(count)
        self.took = array("Q", bytes(8 * count))
        self.received = 0
        self.fresh = asyncio.Event()

    async def read(self, subscriber: Subscriber, index: int) -> None:
        """Take what comes for one member."""
        times, member, took, count = self.times, self.member, self.took, len(self.times)
        async for events in subscriber.batches():
            now = time.time_ns()
            for event in events:
                number = event.sequence
                if number is None or number >= count:
                    continue
                if times[number] < 255:
                    times[number] += 1
                if times[number] == 1:
                    member[number], took[number] = index, now - (event.sent_ns or now)
                    self.received += 1
            self.fresh.set()


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """Receive; what came of it."""
    loop = asyncio.get_running_loop()
    groups = [Group(f"g{number}", args.count) for number in range(args.groups)]
    members: list[list[Subscriber]] = []
    readers = []
    async with contextlib.AsyncExitStack() as stack:
        for group in groups:
            members.append([])
            for index in range(args.members):
                subscriber = Subscriber(
                    args.address,
                    args.topic,
                    group=group.name,
                    repair=args.patience,
                    queue=1 << 20,
                    duplicates="drop" if args.drop else "deliver",
                )
                await stack.enter_async_context(subscriber)
                members[-1].append(subscriber)
                readers.append(asyncio.create_task(group.read(subscriber, index)))
        print("ready", flush=True)
        line = await loop.run_in_executor(None, sys.stdin.readline)
        sent = json.loads(line)["sent"] if line else 0
        for group in groups:
            with contextlib.suppress(asyncio.TimeoutError):
                while group.received < sent:
                    group.fresh.clear()
                    await asyncio.wait_for(group.fresh.wait(), patience(args.idle))
        told = {
            "received": [group.received for group in groups],
            "doubled": sum(count - 1 for group in groups for count in group.times if count > 1),
            "repaired": sum(each.stats.repaired for some in members for each in some),
            "given_up": sum(each.stats.given_up for some in members for each in some),
            **_times(groups, [[each.member.port for each in some] for some in members], sent, args),
        }
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    return told


def _times(
    groups: list[Group], ports: list[list[int]], sent: int, args: argparse.Namespace
) -> dict[str, Any]:
    """How long events took, in us, by where they were lost."""
    kinds: dict[str, list[int]] = {"none": [], "before": [], "behind": [], "both": []}
    for group, own in zip(groups, ports, strict=True):
        for number in range(sent):
            if not group.times[number]:
                continue
            first = number - number % args.batch
            before = is_lost(first, 0, args.before)
            behind = is_lost(first, own[group.member[number]], args.behind)
            kind = ("both" if behind else "before") if before else ("behind" if behind else "none")
            kinds[kind].append(group.took[number])
    kinds["any"] = [*kinds["before"], *kinds["behind"], *kinds["both"]]
    return {
        "took": {
            kind: [len(values), *(percentile(sorted(values), p) / 1000 for p in (50, 99, 100))]
            for kind, values in kinds.items()
            if values
        }
    }


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.repaired", description=__doc__)
    parser.add_argument("--address", required=True, help="the broker")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--count", type=int, required=True, help="events at most")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--before", type=int, default=0, help="lost before the broker, of a million")
    parser.add_argument("--behind", type=int, default=0)
    parser.add_argument("--patience", type=float, default=20)
    parser.add_argument("--drop", action="store_true", help="events that the network doubles")
    parser.add_argument("--idle", type=float, default=3)
    parser.add_argument("--fifo", type=int, default=0, help="SCHED_FIFO priority; 0: ordinary scheduling")
    args = parser.parse_args()
    if args.fifo:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(args.fifo))
    uvloop.install()
    print(json.dumps(asyncio.run(run(args))), flush=True)


if __name__ == "__main__":
    main()
