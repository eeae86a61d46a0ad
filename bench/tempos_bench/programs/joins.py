"""Joins a group again and again: `python -m tempos_bench.programs.joins`. Prints one JSON object.

What is timed is a subscriber's own wait: from its request to the broker's answer, which comes when the
new route is in force on both paths. Leaving stands between the joins, untimed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

from tempos import Subscriber


async def join(args: argparse.Namespace) -> dict[str, list[float]]:
    """Join and leave ``--count`` times; the waits in seconds."""
    took = []
    for _ in range(args.count):
        began = time.perf_counter()
        async with Subscriber(args.broker, args.topic, group=args.group):
            took.append(time.perf_counter() - began)
    return {"seconds": took}


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.joins", description=__doc__)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--count", type=int, required=True)
    print(json.dumps(asyncio.run(join(parser.parse_args()))))


if __name__ == "__main__":
    main()
