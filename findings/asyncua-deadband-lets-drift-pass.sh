#!/bin/sh
# asyncua's server never tells a client with a deadband of a value that drifts in small steps, however far.
#
# Versions    asyncua 2.1.0, server and client.
# Expected    An absolute deadband of 1 is to keep noise away: a value is told once it differs by more than 1 from the one that
#             was told last (OPC UA part 4, 7.22.2, AbsoluteDeadband: the last value that was put into the queue
#             counts). So a client is never wrong by more than 1.
# What it does  Each value is compared with the one that was written before it, told or not. What rises by 0.5 at a time, as
#             every filling tank does between two looks, is never told: the client goes on showing the first value
#             while the server has 50. Percent deadbands are told to be in force, and are none.
# Source      asyncua 2.1.0, server/monitored_item_service.py: MonitoredItemValues.set_current_datavalue() makes the value before
#             the old one, whether it was enqueued or not; _is_deadband_exceeded(): "Percent is not implemented".
# For us      Triggers of kind opcua ask for no deadband: each value that a server has is an event, and what is too little to
#             matter is left to the function (clients/tempos_trigger/sources/opcua.py).
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/v" && "$folder/v/bin/pip" install -q --disable-pip-version-check asyncua==2.1.0 ||
    { echo "asyncua 2.1.0 cannot be had" >&2; exit 2; }

cat > "$folder/run.py" <<'SOURCE'
import asyncio
import logging
import socket
import sys

from asyncua import Client, Server, ua

logging.getLogger("asyncua").setLevel(logging.CRITICAL)
DEADBAND, STEP, LAST = 1.0, 0.5, 50.0
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    URL = f"opc.tcp://127.0.0.1:{free.getsockname()[1]}/plant"


class Handler:
    def __init__(self):
        self.told = []

    def datachange_notification(self, node, value, data):
        self.told.append(value)


async def watched(client, deadband):
    """What a new subscription to the level is told from now on."""
    handler = Handler()
    subscription = await client.create_subscription(20, handler)
    level = client.get_node(ua.NodeId("level", 2))
    if deadband is None:
        await subscription.subscribe_data_change(level, queuesize=1000)
    else:
        await subscription.deadband_monitor(level, deadband, ua.DeadbandType.Absolute, queuesize=1000)
    return handler.told


async def until(is_so, what):
    for _ in range(400):
        if is_so():
            return
        await asyncio.sleep(0.05)
    print(f"not within 20 s: {what}", file=sys.stderr)
    sys.exit(1)


async def main():
    server = Server()
    await server.init()
    server.set_endpoint(URL)
    await server.register_namespace("plant")
    level = await server.nodes.objects.add_variable(ua.NodeId("level", 2), "level", 0.0)
    async with server, Client(URL) as client:
        none = await watched(client, None)
        absolute = await watched(client, DEADBAND)
        await until(lambda: none and absolute, "the first value")
        value = 0.0
        while value < LAST:
            value += STEP
            await level.write_value(value)
        await until(lambda: none[-1] == LAST, "the last value, without a deadband")
        all_of_them, drifted = list(none), list(absolute)
        await level.write_value(LAST + 3)
        await until(lambda: absolute[-1] == LAST + 3, "a value that jumps")
    return all_of_them, drifted


told, drifted = asyncio.run(asyncio.wait_for(main(), 60))
print(f"from 0 to {LAST:.0f} in steps of {STEP}: without a deadband {len(told)} values are told, the last {told[-1]};")
print(f"  with a deadband of {DEADBAND:.0f} {len(drifted)} is told: {drifted}")
sys.exit(not (len(told) == LAST / STEP + 1 and drifted == [0.0]))
SOURCE
timeout 90 "$folder/v/bin/python" "$folder/run.py"
