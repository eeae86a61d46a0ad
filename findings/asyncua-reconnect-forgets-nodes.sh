#!/bin/sh
# asyncua's client, told to reconnect by itself, gives up every node that the server does not have at that moment.
#
# Versions    asyncua 2.1.0, client and server.
# Expected    With auto_reconnect=True the connection is made anew "including re-creating all live subscriptions". A server
#             that has been started again, and fills its address space while it already answers, lacks nodes for a
#             moment: what could not be watched yet is tried again, or the subscription is told to be incomplete.
# What it does  A monitored item that the server refuses at the reconnection (BadNodeIdUnknown) is taken out of the
#             subscription, with a line in the log. The client says that it is connected, values of the other nodes
#             come, no status change is told, and of that node nothing ever comes again, although it is there a
#             moment later; a new subscription to it goes well.
# Source      asyncua 2.1.0, common/subscription.py, Subscription.recreate(): "Failed to re-create monitored item", and
#             the item is deleted; client/client.py, auto_reconnect.
# For us      Triggers of kind opcua do not use it: a connection that is lost is given up, client and all, and a new one
#             counts only once the server has taken every node (clients/tempos_trigger/sources/opcua.py).
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/v" && "$folder/v/bin/pip" install -q --disable-pip-version-check asyncua==2.1.0 ||
    { echo "asyncua 2.1.0 cannot be had" >&2; exit 2; }

cat > "$folder/run.py" <<'SOURCE'
import asyncio
import contextlib
import logging
import socket
import sys

from asyncua import Client, Server, ua

logging.getLogger("asyncua").setLevel(logging.CRITICAL)
NAMES, LIMIT = ("early", "late"), 30.0
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    URL = f"opc.tcp://127.0.0.1:{free.getsockname()[1]}/plant"


class Handler:
    def __init__(self):
        self.last, self.told = {}, []

    def datachange_notification(self, node, value, data):
        self.last[node.nodeid.Identifier] = value

    def status_change_notification(self, status):
        self.told.append(status)


async def serving(stack, *names):
    server = Server()
    await server.init()
    server.set_endpoint(URL)
    await server.register_namespace("plant")
    variables = {name: await added(server, name) for name in names}
    await stack.enter_async_context(server)
    return server, variables


async def added(server, name):
    return await server.nodes.objects.add_variable(ua.NodeId(name, 2), name, 0.0)


async def until(is_so, what):
    for _ in range(int(LIMIT / 0.05)):
        if is_so():
            return
        await asyncio.sleep(0.05)
    print(f"not within {LIMIT:.0f} s: {what}", file=sys.stderr)
    sys.exit(1)


async def main():
    seen, handler, client = {}, Handler(), Client(URL, auto_reconnect=True)
    async with contextlib.AsyncExitStack() as first:
        _, variables = await serving(first, *NAMES)
        await client.connect()
        subscription = await client.create_subscription(50, handler)
        await subscription.subscribe_data_change([client.get_node(ua.NodeId(name, 2)) for name in NAMES])
        for name in NAMES:
            await variables[name].write_value(1.0)
        await until(lambda: handler.last == {"early": 1.0, "late": 1.0}, "both nodes, at first")
    handler.told.clear()
    async with contextlib.AsyncExitStack() as second:
        server, variables = await serving(second, "early")
        await until(lambda: handler.last["early"] == 0.0, "the node that is there, after the reconnection")
        variables["late"] = await added(server, "late")
        value = 1.0
        while value < 6:
            value += 1
            for name in NAMES:
                await variables[name].write_value(value)
            await until(lambda: handler.last["early"] == value, "the node that is there, later")
            await asyncio.sleep(0.1)
        seen["early"], seen["late"] = handler.last["early"] == value, handler.last["late"] == value
        seen["connected"], seen["told"] = client.uaclient.state.value, len(handler.told)
        anew = Handler()
        other = await client.create_subscription(50, anew)
        await other.subscribe_data_change(client.get_node(ua.NodeId("late", 2)))
        await until(lambda: anew.last == {"late": value}, "the node, by a new subscription")
        await client.disconnect()
    return seen


seen = asyncio.run(asyncio.wait_for(main(), 100))
print(f"after the server was started again the client says {seen['connected']!r}, and status changes: {seen['told']};")
print(f"  values of the node that was there at once: {'come' if seen['early'] else 'do not come'}")
late = "come" if seen["late"] else "do not come"
print(f"  values of the node that came a moment later: {late}; by a new subscription: come")
sys.exit(not (seen["early"] and not seen["late"] and seen["told"] == 0))
SOURCE
timeout 110 "$folder/v/bin/python" "$folder/run.py"
