"""A worker of a group, to be killed: `python -m tempos_bench.programs.shifts`.

Says "ready", then marks each event that it has processed in a file of its place: a count for each number, of
events as they came first, and behind those of flagged ones. What is marked stays if it is killed. SIGTERM has
it drain and end. With `--tally` it adds up the files of all places instead, and prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import operator
import signal
from pathlib import Path
from typing import Any

from tempos import Subscriber
from tempos_bench.programs.rehearsal import Asked

_MOST = 255
#: Seconds that it waits for the broker.
WAIT = 60.0


async def work(args: argparse.Namespace, marks: mmap.mmap) -> None:
    """Process events until it is told to leave."""
    leave = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave.set)
    count: int = args.count

    async def process() -> None:
        async for event in subscriber:
            at = (event.sequence or 0) + count * event.is_redelivered
            if marks[at] < _MOST:
                marks[at] += 1

    # On a machine that is busy the broker, too, may stand still for longer than a request has.
    async with Subscriber(args.address, args.topic, group=args.group, wait=WAIT) as subscriber:
        print("ready", flush=True)
        working = asyncio.ensure_future(process())
        await leave.wait()
        await subscriber.drain()
        await working


def tally(folder: Path, count: int) -> dict[str, int]:
    """What all workers have processed, of so many events."""
    plain, again = bytearray(count), bytearray(count)
    for file in folder.iterdir():
        marks = file.read_bytes()
        plain = bytearray(map(operator.add, plain, marks[:count]))
        again = bytearray(map(operator.add, again, marks[count:]))
    every = bytearray(min(_MOST, one + other) for one, other in zip(plain, again, strict=True))
    return {
        "processed": count - every.count(0),
        "never": every.count(0),
        "doubled unflagged": sum(times - 1 for times in plain if times > 1),
        "flagged": sum(again),
        "doubled": sum(times - 1 for times in every if times > 1),
    }


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.shifts", description=__doc__)
    parser.add_argument("--address", help="the broker")
    parser.add_argument("--topic")
    parser.add_argument("--group", default="workers")
    parser.add_argument("--count", type=int, required=True, help="events that there will be")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--place", default="", help="the name of its file")
    parser.add_argument("--tally", action="store_true")
    args = parser.parse_args()
    if args.tally:
        print(json.dumps(tally(args.folder, args.count)))
        return
    with (args.folder / args.place).open("a+b") as file:
        file.truncate(2 * args.count)
        with mmap.mmap(file.fileno(), 2 * args.count) as marks:
            asyncio.run(work(args, marks))


def planned(asked: Asked) -> dict[str, Any]:
    """What a plan takes for its answer."""
    count = int(asked.options["--count"])
    return {"processed": count, "never": 0, "doubled unflagged": 0, "flagged": 0, "doubled": 0}


if __name__ == "__main__":
    main()
