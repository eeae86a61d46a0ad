#!/bin/sh
# On uvloop asyncio.sleep() of less than half a millisecond does not sleep at all.
#
# Versions    uvloop 0.23.0, CPython's asyncio beside it; Linux.
# Expected    A sleep lasts at least as long as it was told; asyncio's own loop rounds up to what its selector can wait.
# What it does  Timers are handed to libuv in whole milliseconds, rounded to the nearest: 0.49 ms is none and comes back
#             within the same turn of the loop, some microseconds later; 0.6 ms is one. So who leaves the loop to others
#             for a quarter of a millisecond between two pieces of work leaves it for one turn.
# Source      uvloop 0.23.0, Loop.call_later: the delay times 1000, rounded; libuv's timers count milliseconds.
# For us      Long answers of the broker are made in slices with such pauses: on uvloop a pause is one turn of the loop,
#             and nothing may count on more.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/v" && "$folder/v/bin/pip" install -q --disable-pip-version-check uvloop==0.23.0 ||
    { echo "uvloop 0.23.0 cannot be had" >&2; exit 2; }

cat > "$folder/run.py" <<'SOURCE'
import asyncio
import statistics
import sys
import time

import uvloop


async def slept(seconds):
    """The median of what such a sleep takes, in microseconds."""
    took = []
    for _ in range(100):
        began = time.perf_counter()
        await asyncio.sleep(seconds)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


async def main(name):
    short, long = await slept(0.00049), await slept(0.0006)
    print(f"{name}: a sleep of 490 us takes {short:.0f}, one of 600 us {long:.0f}")
    return short, long


def run(name, make):
    loop = make()
    try:
        return loop.run_until_complete(main(name))
    finally:
        loop.close()


short, long = run("uvloop", uvloop.new_event_loop)
usual, _ = run("asyncio", asyncio.new_event_loop)
sys.exit(0 if short < 245 and long > 490 and usual >= 490 else 1)
SOURCE
"$folder/v/bin/python" "$folder/run.py"
