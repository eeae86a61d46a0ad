"""Endpoints of kind ``udp``: a datagram becomes an event; the smallest kind there is.

A datagram says nothing of what became of it, so nobody is told. What the kernel had no room for is counted as
``overrun`` as far as it says so, what comes from elsewhere than ``sources`` as ``source``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Sequence
from typing import Any

from tempos import _sockets
from tempos_daemon import kinds
from tempos_daemon.schema import Faults, Key, Keys, Table
from tempos_trigger.account import TOO_LARGE
from tempos_trigger.kind import Sink
from tempos_trigger.model import EndpointSpec
from tempos_trigger.sources.ports import Address, Ports

#: Bytes of socket buffer to ask for, and datagrams read before the loop has its turn.
RECEIVE_BUFFER, BATCH = 4 << 20, 64
SOURCE, OVERRUN = "source", "overrun"
_SO_RXQ_OVFL = 40
_ANCILLARY = socket.CMSG_SPACE(4)

KEYS: Keys = {
    "listen": Key(kinds.API),
    "limit": Key(kinds.whole(1, _sockets.MAX_PAYLOAD), _sockets.MAX_PAYLOAD),
    "sources": Key(kinds.NETWORK, (), many=True),
}


def _bound(address: Address) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        _sockets.make_room(sock, RECEIVE_BUFFER)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def check_listen(table: Table, faults: Faults) -> None:
    """A port there must be."""
    if not table.get("listen")[1]:
        faults.refuse(table.at("listen"), "off", '"host:port"')


class Networks:
    """The networks that signals may come from; none: from everywhere."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.IPv4Network(each) for each in networks]
        self._known: dict[str, bool] = {}

    def allow(self, ip: str) -> bool:
        """Whether a signal may come from there."""
        if not self._networks:
            return True
        allowed = self._known.get(ip)
        if allowed is None:
            if len(self._known) > 10_000:
                self._known.clear()
            address = ipaddress.IPv4Address(ip)
            allowed = self._known[ip] = any(address in each for each in self._networks)
        return allowed


class Udp:
    """The kind."""

    keys = KEYS

    def __init__(self) -> None:
        self.ports = Ports(_bound)

    def check(self, table: Table, faults: Faults) -> None:
        check_listen(table, faults)

    def claims(self, spec: EndpointSpec) -> Sequence[str]:
        host, port = spec.options["listen"]
        return [f"UDP {host}:{port}"]

    def make(self, spec: EndpointSpec, sink: Sink) -> _UdpSource:
        return _UdpSource(self.ports, spec, sink)


class _UdpSource:
    def __init__(self, ports: Ports, spec: EndpointSpec, sink: Sink) -> None:
        self._ports = ports
        self._sink = sink
        self._address: Address = spec.options["listen"]
        self._sock: socket.socket | None = None
        self._reads = False
        self._overruns = 0
        self.take(spec)

    def takes(self, spec: EndpointSpec) -> bool:
        return bool(spec.options["listen"] == self._address)

    def take(self, spec: EndpointSpec) -> None:
        self._limit: int = spec.options["limit"]
        self._networks = Networks(spec.options["sources"])

    async def open(self) -> None:
        self._sock = self._ports.take(self._address)

    async def start(self) -> None:
        assert self._sock is not None, "opened before"
        self._reads = True
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._read, self._sock)

    def status(self) -> dict[str, Any]:
        if self._sock is not None:
            self._look_for_lost(self._sock)
        host, port = self._address
        return {"state": "up" if self._reads else "closed", "listen": f"{host}:{port}"}

    async def close(self) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        if self._reads:
            self._reads = False
            asyncio.get_running_loop().remove_reader(sock.fileno())
            # What has come in by now is taken; what comes meanwhile does not keep us here.
            for _ in range(RECEIVE_BUFFER // 1024 // BATCH):
                if not self._read(sock):
                    break
            self._look_for_lost(sock)
        self._ports.give(self._address, sock)

    def _read(self, sock: socket.socket) -> bool:
        """Take what is there; False: nothing was."""
        sink = self._sink
        try:
            for _ in range(BATCH):
                body, ancillary, _, source = sock.recvmsg(_sockets.MAX_PAYLOAD, _ANCILLARY)
                if ancillary:
                    self._lost(*struct.unpack("=I", ancillary[0][2][:4]))
                if not self._networks.allow(source[0]):
                    sink.refuse(SOURCE)
                elif len(body) > self._limit:
                    sink.refuse(TOO_LARGE)
                else:
                    sink.put(body)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            # Out of memory for a moment.
            return False
        return True

    def _look_for_lost(self, sock: socket.socket) -> None:
        """Count what found no room by now, also behind what came last."""
        if _sockets.LINUX:
            self._lost(_sockets.memory(sock)[2])

    def _lost(self, counter: int) -> None:
        lost = (counter - self._overruns) & 0xFFFFFFFF
        self._overruns = counter
        if lost:
            self._sink.refuse(OVERRUN, lost)
