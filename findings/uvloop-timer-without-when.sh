#!/bin/sh
# What uvloop's call_later() and call_at() give for what is due at once is no TimerHandle: it has no when().
#
# Versions    uvloop 0.23.0, CPython's asyncio beside it; Linux.
# Expected    loop.call_later() and loop.call_at() return an asyncio.TimerHandle, whatever the delay; when() tells the moment
#             (Python's documentation of both, and of asyncio.TimerHandle).
# What it does  A delay that rounds to no whole millisecond (0, in the past, 0.4 ms) goes to call_soon(), whose handle comes
#             back: calling when() on it raises AttributeError. From 0.5 ms on there is a TimerHandle.
# Source      uvloop 0.23.0, Loop.call_later: "if when == 0: return self._call_soon(...)".
# For us      Who asks a handle whether its timer is early enough does so only sometimes, and fails only then: under load, when
#             a timer is overdue as it is set. So whoever keeps a timer keeps the moment, too.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/v" && "$folder/v/bin/pip" install -q --disable-pip-version-check uvloop==0.23.0 ||
    { echo "uvloop 0.23.0 cannot be had" >&2; exit 2; }

cat > "$folder/run.py" <<'SOURCE'
import asyncio
import sys

import uvloop


async def main(name):
    loop = asyncio.get_running_loop()
    has = [hasattr(loop.call_later(delay, lambda: None), "when") for delay in (0, 0.0004, 0.001)]
    has.append(hasattr(loop.call_at(loop.time() - 1, lambda: None), "when"))
    print(f"{name}: handles of 0, 0.4 and 1 ms and of one in the past have when(): {has}")
    return has


def run(name, make):
    loop = make()
    try:
        return loop.run_until_complete(main(name))
    finally:
        loop.close()


seen = run("uvloop", uvloop.new_event_loop)
usual = run("asyncio", asyncio.new_event_loop)
sys.exit(0 if seen == [False, False, True, False] and all(usual) else 1)
SOURCE
"$folder/v/bin/python" "$folder/run.py"
