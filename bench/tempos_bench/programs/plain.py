"""The Python yardstick of the slow path: `python -m tempos_bench.programs.plain`.

What everyone writes first: an asyncio `DatagramProtocol` under uvloop that sends each datagram on to a
member in turn. Prints `ready`; on SIGTERM one JSON object with what it did.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal

import uvloop

from tempos_bench.compiled import traffic


class Forwarder(asyncio.DatagramProtocol):
    """Round robin over the members, one datagram at a time."""

    def __init__(self, members: list[traffic.Endpoint]) -> None:
        self.received = 0
        self._members = [(member.ip, member.port) for member in members]
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is no subclass of asyncio's.
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: object) -> None:
        assert self._transport is not None
        self._transport.sendto(data, self._members[self.received % len(self._members)])
        self.received += 1


async def run(bind: traffic.Endpoint, members: list[traffic.Endpoint]) -> None:
    """Forward until SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    sock = traffic.open_socket(bind=bind)
    sock.setblocking(False)
    transport, forwarder = await loop.create_datagram_endpoint(lambda: Forwarder(members), sock=sock)
    print("ready", flush=True)
    await stop.wait()
    transport.close()
    print(json.dumps({"received": forwarder.received}))


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.plain", description=__doc__)
    parser.add_argument("--bind", type=traffic.Endpoint.parse, required=True)
    parser.add_argument("--member", type=traffic.Endpoint.parse, action="append", required=True)
    args = parser.parse_args()
    uvloop.install()
    asyncio.run(run(args.bind, args.member))


if __name__ == "__main__":
    main()
