"""Rows of the table of packets (packets.py) for foreign topics: what is sent to ports of their own."""

from __future__ import annotations

import struct

from scapy.layers.inet import IPOption_NOP

from support.packets import MTU_PAYLOAD, Addresses, Row, datagram, event, one, partial, raw
from tempos import Framing, GroupOptions, Quality, Reason, Topic

#: Nobody listens there, and that is to be nothing to it.
PATIENT = (GroupOptions("workers", down_after=0),)
FLOWS = Topic(1300, "flows", Quality.BQ, 5, Framing.FOREIGN, ports=(2055, 9995), groups=PATIENT)
FLOW_PAIR = Topic(
    1301, "flow pair", Quality.BQ, 5, Framing.FOREIGN, ports=(6343,),
    groups=(GroupOptions("g0", down_after=0), GroupOptions("g1", down_after=0)),
)  # fmt: skip
FENCED_FLOWS = Topic(
    1302,
    "fenced flows",
    Quality.BQ,
    5,
    Framing.FOREIGN,
    sources=("10.0.0.0/8",),
    ports=(514,),
    groups=PATIENT,
)
LONELY_FLOWS = Topic(1303, "lonely flows", Quality.BQ, 5, Framing.FOREIGN, ports=(515,))

ELSEWHERE = "192.0.2.7"
CHOOSY_FLOWS = Topic(
    1304, "choosy flows", Quality.BQ, 5, Framing.FOREIGN, ports=(6344,),
    groups=(GroupOptions("g0", ("192.0.2.0/24", "198.51.100.0/25"), down_after=0),
            GroupOptions("g1", every=2, down_after=0), GroupOptions("g2", down_after=0)),
)  # fmt: skip
PRIVATE_FLOWS = Topic(
    1305, "private flows", Quality.BQ, 5, Framing.FOREIGN, ports=(6345,),
    groups=(GroupOptions("g0", (f"{ELSEWHERE}/32",), every=2, down_after=0),),
)  # fmt: skip
KEPT_FLOWS = Topic(
    1306,
    "kept flows",
    Quality.BQ,
    5,
    Framing.FOREIGN,
    ports=(6346,),
    groups=(GroupOptions("g0", down_after=0), GroupOptions("g1", keep=True, down_after=0)),
)
KEPT_ALONE = Topic(
    1307, "kept alone", Quality.BQ, 5, Framing.FOREIGN, ports=(6347,),
    groups=(GroupOptions("g0", keep=True, down_after=0),),
)  # fmt: skip
#: Topics with more groups than one, or with groups that do not get all: how many they have.
SEVERAL_FLOWS = {FLOW_PAIR: 2, CHOOSY_FLOWS: 3, PRIVATE_FLOWS: 1, KEPT_FLOWS: 2, KEPT_ALONE: 1}

FOREIGN_ROWS: list[Row] = []


def row(
    name: str,
    fast: Reason,
    outcome: Reason | None,
    payload: bytes,
    port: int = FLOWS.ports[0],
    *,
    groups: int = 1,
    more: bool = False,
    kept: bool = False,
    udp: dict[str, object] | None = None,
    is_partial: bool = False,
    **ip: object,
) -> None:
    def build(at: Addresses) -> list[bytes]:
        (frame,) = one(lambda at: datagram(at, payload, udp={"dport": port, **(udp or {})}, **ip))(at)
        return [partial(frame) if is_partial else frame]

    FOREIGN_ROWS.append(
        Row(name, fast, outcome, build, partial=is_partial, groups=groups, more=more, kept=kept)
    )


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
for port, *copies in (
    (CHOOSY_FLOWS.ports[0], ({}, 2), ({}, 1), ({"src": ELSEWHERE}, 3), ({"src": ELSEWHERE}, 2),
     ({"src": "198.51.100.9"}, 3), ({"src": "198.51.100.129"}, 1),
     ({"src": ELSEWHERE, "is_partial": True}, 3), ({"udp": {"chksum": 0}}, 1)),
    (PRIVATE_FLOWS.ports[0], ({}, 0), ({"src": ELSEWHERE}, 1), ({}, 0), ({"src": ELSEWHERE}, 0),
     ({"src": ELSEWHERE}, 1)),
):  # fmt: skip
    for number, (more, groups) in enumerate(copies):
        name = f"foreign: {groups} copies, the {number}. to {port}"
        several = port == CHOOSY_FLOWS.ports[0]
        good(name, b"%d" % number, port, groups=groups, more=several, **more)
for more in ({}, {"udp": {"chksum": 0}}, {"is_partial": True}, {"src": ELSEWHERE},
                               {"udp": {"sport": 65535}, "is_partial": True}, {"tos": 0x6B}):  # fmt: skip
    for body in (b"odd", bytes(MTU_PAYLOAD)):
        name = f"foreign: source kept, {more}, {len(body)} bytes"
        good(name, body, KEPT_FLOWS.ports[0], groups=2, kept=True, **more)
        good(f"{name}, alone", body, KEPT_ALONE.ports[0], kept=True, **more)
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
