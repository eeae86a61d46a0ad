"""Members on many addresses of one host: `python -m tempos_bench.programs.tenants`.

Each is as little as a member can be: it subscribes from an address of its own and sends heartbeats.
Commands come as JSON lines; each is answered when it is done, with the number of members.

| command           | does                                                 | answers             |
|-------------------|------------------------------------------------------|---------------------|
| `{"join": count}` | the next so many become members, one after the other | seconds, of each    |
| `{"rest": s}`     | nothing but heartbeats for so many seconds           |                     |
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import sys
import time
from typing import Any

from tempos import CONTROL_PORT
from tempos.control import Code, decode_reply, encode_request
from tempos.session.proof import decode

#: Seconds that a broker may take to make a member.
_LIMIT = 30.0
_PORT = 9001


class Tenant:
    """One member, on one address."""

    def __init__(self, address: str, broker: str, number: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 0))
        self._socket.connect((broker, CONTROL_PORT))
        self._socket.setblocking(False)
        #: Where its events come; of them it takes none.
        self._data = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._data.bind((address, _PORT))
        self._data.setblocking(False)
        self._client = number
        self._id = 0

    async def join(self, topic: str, group: str) -> None:
        await self._ask("subscribe", topic=topic, group=group, port=_PORT)

    def beat(self) -> None:
        """Renew; the answer is not waited for."""
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(2048):
                pass
        self._send("heartbeat", port=_PORT, received=[])

    def _send(self, op: str, **fields: Any) -> int:
        self._id += 1
        self._socket.send(encode_request(op, self._id, self._client, **fields))
        return self._id

    async def _ask(self, op: str, **fields: Any) -> None:
        number, loop = self._send(op, **fields), asyncio.get_running_loop()
        while True:
            reply = decode_reply(await asyncio.wait_for(loop.sock_recv(self._socket, 2048), _LIMIT))
            if reply.id != number:
                continue
            if reply.error is None:
                return
            if reply.error.code != Code.PROVE:
                raise reply.error
            proof = reply.proof
            if not proof:
                told = decode(await asyncio.wait_for(loop.sock_recv(self._data, 2048), _LIMIT))
                proof = told[1] if told else b""
            number = self._send(op, **fields, proof=proof)


async def serve(args: argparse.Namespace) -> None:
    """Hear commands until the input ends."""
    tenants: list[Tenant] = []

    async def beat() -> None:
        while True:
            await asyncio.sleep(args.heartbeat)
            for tenant in tenants:
                tenant.beat()

    beating = asyncio.create_task(beat())
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        seconds = []
        await asyncio.sleep(command.get("rest", 0))
        for _ in range(command.get("join", 0)):
            began = time.perf_counter()
            tenant = Tenant(args.addresses[len(tenants)], args.broker, len(tenants) + 1)
            await tenant.join(args.topic, args.group)
            seconds.append(time.perf_counter() - began)
            tenants.append(tenant)
        print(json.dumps({"seconds": seconds, "members": len(tenants)}), flush=True)
    beating.cancel()


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.tenants", description=__doc__)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--heartbeat", type=float, default=2.5)
    parser.add_argument("addresses", nargs="+")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
