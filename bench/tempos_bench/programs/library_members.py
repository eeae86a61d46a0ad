"""Members made with the client library, that come and go: `python -m tempos_bench.programs.library_members`.

:mod:`.members` is the same at rates that only C keeps up with; this one shows what an application gets.
Keeps 1 to `--members` members in one group, and lets one join or drain `--rate` times a second for
`--seconds` from the first event on. Then it reads a JSON line, {"sent": n}: when `n` different events have
come, or none for `--idle` seconds, it drains them all and prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
from collections import Counter
from typing import Any

from tempos import Drained, Subscriber
from tempos_bench.nodes.patience import patience


class Crowd:
    """The members, and how often each event reached one of them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._readers: list[asyncio.Task[None]] = []
        self.present: list[Subscriber] = []
        self.seen: Counter[tuple[int | None, int | None]] = Counter()
        self.received = self.missed = self.lost = self.unanswered = 0
        self.fresh = asyncio.Event()

    async def join(self) -> None:
        """One more member, read from at once."""
        member = Subscriber(self._args.address, self._args.topic, group=self._args.group)
        await member.__aenter__()
        self.present.append(member)
        self._readers.append(asyncio.create_task(self._read(member)))

    async def drain(self, member: Subscriber) -> None:
        """One member less, and what the broker says it lost."""
        self.present.remove(member)
        drained: Drained | None = await member.drain()
        self.missed += member.stats.missed
        if drained is None:
            self.unanswered += 1
        else:
            self.lost += drained.lost

    async def finish(self) -> None:
        """All leave; what has arrived is read to its end."""
        for member in list(self.present):
            await self.drain(member)
        await asyncio.gather(*self._readers)

    async def _read(self, member: Subscriber) -> None:
        async for event in member:
            self.seen[event.publisher, event.sequence] += 1
            self.received += 1
            self.fresh.set()


async def churn(args: argparse.Namespace) -> dict[str, Any]:
    """Run the crowd; returns what came of it."""
    rng = random.Random(args.seed)
    crowd = Crowd(args)
    await crowd.join()
    print("ready", flush=True)
    await asyncio.wait_for(crowd.fresh.wait(), patience(args.first))
    loop = asyncio.get_running_loop()
    began, changes = loop.time(), 0
    while args.rate and loop.time() < began + args.seconds:
        count = len(crowd.present)
        if count > 1 and (count == args.members or rng.random() < 0.5):
            await crowd.drain(rng.choice(crowd.present))
        else:
            await crowd.join()
        changes += 1
        await asyncio.sleep(max(0.0, began + changes / args.rate - loop.time()))
    line = await loop.run_in_executor(None, sys.stdin.readline)
    # Whoever started this is gone if there is none.
    sent = json.loads(line)["sent"] if line else 0
    # What has not come by then is lost.
    with contextlib.suppress(asyncio.TimeoutError):
        while len(crowd.seen) < sent:
            crowd.fresh.clear()
            await asyncio.wait_for(crowd.fresh.wait(), patience(args.idle))
    await crowd.finish()
    return {
        "received": crowd.received,
        "distinct": len(crowd.seen),
        "doubled": sum(count - 1 for count in crowd.seen.values()),
        "missed": crowd.missed,
        "lost": crowd.lost,
        "unanswered": crowd.unanswered,
        "changes": changes,
    }


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.library_members", description=__doc__)
    parser.add_argument("--address", required=True, help="the broker")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", default="workers")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--rate", type=float, default=10, help="changes per second; 0: none")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--first", type=float, default=20, help="seconds to wait for the first event")
    parser.add_argument("--idle", type=float, default=2)
    parser.add_argument("--seed", type=int, default=1)
    print(json.dumps(asyncio.run(churn(parser.parse_args()))), flush=True)


if __name__ == "__main__":
    main()
