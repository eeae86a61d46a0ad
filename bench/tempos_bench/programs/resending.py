"""A publisher with a window, on a schedule: `python -m tempos_bench.programs.resending`.

Prints `ready`; a line on its input begins. It sends `--rate` events a second, `--batch` in a datagram, for
`--seconds`, waits until all is confirmed, and prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from typing import Any

import uvloop

from tempos import Publisher, Unconfirmed
from tempos_bench.nodes.patience import patience


async def run(args: argparse.Namespace) -> dict[str, Any]:
    """Publish; what came of it."""
    loop = asyncio.get_running_loop()
    body, count = bytes(args.size), round(args.rate * args.seconds / args.batch)
    async with Publisher(args.address, window=args.window) as publisher:
        await publisher.learn(args.topic)
        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        began = time.monotonic()
        for number in range(count):
            ahead = began + number * args.batch / args.rate - time.monotonic()
            if ahead > 0:
                await asyncio.sleep(ahead)
            if args.batch == 1:
                await publisher.publish(args.topic, body)
                continue
            async with publisher.batch():
                for _ in range(args.batch):
                    await publisher.publish(args.topic, body)
        took = time.monotonic() - began
        whys: dict[str, int] = {}
        try:
            await publisher.confirmed(patience(args.patience))
        except Unconfirmed as error:
            whys = {why: events for (_, why), events in error.whys.items()}
        return {
            "sent": publisher.stats.events,
            "datagrams": publisher.stats.datagrams,
            "bytes": publisher.stats.bytes,
            "took": took,
            "confirmed_after": time.monotonic() - began - took,
            "unconfirmed": sum(whys.values()),
            "whys": whys,
            "resent": publisher.stats.resent,
        }


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.resending", description=__doc__)
    parser.add_argument("--address", required=True, help="the broker")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--window", type=int, default=16 << 20)
    parser.add_argument("--patience", type=float, default=30)
    parser.add_argument("--fifo", type=int, default=0, help="SCHED_FIFO priority; 0: ordinary scheduling")
    args = parser.parse_args()
    if args.fifo:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(args.fifo))
    uvloop.install()
    print(json.dumps(asyncio.run(run(args))), flush=True)


if __name__ == "__main__":
    main()
