#!/bin/sh
# nats-py's connect() with allow_reconnect=False goes on trying a server that is not there, for two minutes.
#
# Versions    nats-py 2.16.0.
# Expected    Who forbids reconnecting wants to know at once that there is no server: one try for each address, then
#             an error. connect_timeout (2 s) bounds how long that takes.
# What it does  connect() tries the same address again every reconnect_time_wait (2 s) until it has done so more often
#             than max_reconnect_attempts (60) allows, and only then raises NoServersError. allow_reconnect is looked
#             at where a connection is lost, not where the first one is made; connect_timeout is for each try.
#             With the two limits set it is over at once.
# Source      nats-py 2.16.0, nats/aio/client.py: connect, _select_next_server.
# For us      Triggers of kind nats and `tempos export` set both limits: they come back by themselves, and say meanwhile
#             why there is nothing.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/v" && "$folder/v/bin/pip" install -q --disable-pip-version-check nats-py==2.16.0 ||
    { echo "nats-py 2.16.0 cannot be had" >&2; exit 2; }

cat > "$folder/run.py" <<'SOURCE'
import asyncio
import socket
import sys
import time

import nats


async def tries(limit, **options):
    """How often a server that is not there is tried, and how it ends, within so many seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    failed = []

    async def on_error(error):
        failed.append(error)

    connecting = nats.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False, error_cb=on_error, **options)
    began = time.monotonic()
    try:
        await asyncio.wait_for(connecting, limit)
    except asyncio.TimeoutError:
        ended = "still trying"
    except nats.errors.NoServersError:
        ended = "NoServersError"
    return len(failed), ended, time.monotonic() - began


async def main():
    plain = await tries(9.0)
    limited = await tries(9.0, max_reconnect_attempts=1, reconnect_time_wait=0)
    for name, (count, ended, seconds) in (("allow_reconnect=False", plain), ("and both limits", limited)):
        print(f"{name}: {count} tries in {seconds:.1f} s, {ended}")
    return plain[0] >= 3 and plain[1] == "still trying" and limited[1] == "NoServersError" and limited[2] < 5


sys.exit(0 if asyncio.run(main()) else 1)
SOURCE
"$folder/v/bin/python" "$folder/run.py"
