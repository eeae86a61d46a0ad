"""Rows of the table of packets (packets.py) for foreign topics: what is sent to ports of their own."""

from __future__ import annotations

import struct

from scapy.layers.inet import IPOption_NOP

from support.packets import MTU_PAYLOAD, Addresses, Row, datagram, event, one, partial, raw
from tempos import Framing, Quality, Reason, Topic

FLOWS = Topic(1300, "flows", Quality.BQ, 5, Framing.FOREIGN, ports=(2055, 9995))
FLOW_PAIR = Topic(1301, "flow pair", Quality.BQ, 5, Framing.FOREIGN, ports=(6343,))
FENCED_FLOWS = Topic(
    1302, "fenced flows", Quality.BQ, 5, Framing.FOREIGN, sources=("10.0.0.0/8",), ports=(514,)
)
LONELY_FLOWS = Topic(1303, "lonely flows", Quality.BQ, 5, Framing.FOREIGN, ports=(515,))

FOREIGN_ROWS: list[Row] = []


def row(
    name: str,
    fast: Reason,
    outcome: Reason | None,
    payload: bytes,
    port: int = FLOWS.ports[0],
    *,
    groups: int = 1,
    udp: dict[str, object] | None = None,
    is_partial: bool = False,
    **ip: object,
) -> None:
    def build(at: Addresses) -> list[bytes]:
        (frame,) = one(lambda at: datagram(at, payload, udp={"dport": port, **(udp or {})}, **ip))(at)
        return [partial(frame) if is_partial else frame]

    FOREIGN_ROWS.append(Row(name, fast, outcome, build, partial=is_partial, groups=groups))


def good(name: str, payload: bytes, port: int = FLOWS.ports[0], **more: object) -> None:
    row(name, Reason.FORWARDED, Reason.FORWARDED, payload, port, **more)  # type: ignore[arg-type]


for version in (1, 5, 9, 10):
    good(f"foreign: as NetFlow {version} begins", struct.pack("!H", version) + bytes(range(72)))
good("foreign: the other port", b"flows", FLOWS.ports[1])
good("foreign: one byte", b"\0")
good("foreign: odd length", b"abc")
good("foreign: like a keep-alive", b"\0\2")
good("foreign: like a wide id, cut off", b"\xff\1")
good("foreign: like an event", event())
good("foreign: like a topic that there is", raw())
good("foreign: as large as the MTU", bytes(range(256)) * 5 + bytes(MTU_PAYLOAD - 1280))
good("foreign: checksum zero", b"none", udp={"chksum": 0})
good("foreign: checksum partial, as a local socket leaves it", b"partial", is_partial=True)
good("foreign: a mark", b"marked", tos=0x6B)
good("foreign: from a network of the topic", b"<34>text", FENCED_FLOWS.ports[0])
for kind in ({}, {"udp": {"chksum": 0}}, {"is_partial": True}):
    good(f"foreign: to two groups, {kind}", b"sampled", FLOW_PAIR.ports[0], groups=2, **kind)
row("foreign: options", Reason.IP_OPTIONS, Reason.FORWARDED, b"options", options=[IPOption_NOP()] * 4)
row("foreign: nothing", Reason.EMPTY, Reason.EMPTY, b"")
row("foreign: a port of nobody", Reason.OTHER_PORT, None, b"nobody's", 2056)
row("foreign: no member", Reason.NO_ROUTE, Reason.NO_MEMBER, b"nobody", LONELY_FLOWS.ports[0])
row("foreign: TTL spent", Reason.TTL, Reason.TTL, b"old", ttl=1)
row(
    "foreign: from a network that is none of the topic's",
    Reason.FOREIGN_SOURCE,
    Reason.FOREIGN_SOURCE,
    b"<34>text",
    FENCED_FLOWS.ports[0],
    src="192.0.2.7",
)
row(
    "foreign: by its id to the data port",
    Reason.UNKNOWN_TOPIC,
    Reason.UNKNOWN_TOPIC,
    raw(b"flows", FLOWS.id),
    9998,
)
row(
    "foreign: by its id to the data port, of two groups",
    Reason.UNKNOWN_TOPIC,
    Reason.UNKNOWN_TOPIC,
    raw(b"flows", FLOW_PAIR.id),
    9998,
)
