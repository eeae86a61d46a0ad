"""The one table of packets that the fast path, the slow path and the parity tests share.

Each row reads as: what is special about it, the frames that enter the broker's node, the reason under
which the fast path must count the (last) frame, and what the broker as a whole must make of it. For
a packet that the fast path passes up, that is the kernel's stack and then the slow path.

Addresses are parameters, so that the same rows serve `BPF_PROG_TEST_RUN` and real network namespaces.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from support.tagging import mark_of
from tempos import Framing, Overflow, Quality, Reason, Topic
from tempos.wire import KEEP_ALIVE, encode_batch, encode_event, raw_header, topic_in

#: The topics of every test that uses this table; UNKNOWN is configured nowhere.
RAW = Topic(1, "raw", Quality.SQ, 5, Framing.RAW)
EVENT = Topic(2, "event", Quality.BQ, 5, Framing.EVENT)
LONELY = Topic(3, "lonely", Quality.BQ, 5, Framing.RAW)
#: Takes events only from the publishers' networks of the tests: real namespaces, and test runs.
FENCED = Topic(4, "fenced", Quality.SQ, 5, Framing.EVENT, sources=("10.0.1.0/24", "10.1.2.0/24"))
#: Topics with several groups, by how many.
PAIR = Topic(5, "pair", Quality.SQ, 5, Framing.RAW)
TRIO = Topic(6, "trio", Quality.BQ, 5, Framing.EVENT)
CROWD = Topic(7, "crowd", Quality.BQ, 5, Framing.EVENT)
#: Wide ones, of which one has so few members that its route is small, and one more.
WIDE_RAW = Topic(256, "wide/raw", Quality.SQ, 5, Framing.RAW)
WIDE_EVENT = Topic(65534, "wide/event", Quality.BQ, 5, Framing.EVENT)
WIDE_PAIR = Topic(4660, "wide/pair", Quality.SQ, 5, Framing.EVENT)
WIDE_TRIO = Topic(22136, "wide/trio", Quality.BQ, 5, Framing.EVENT)
SEVERAL = {PAIR: 2, TRIO: 3, CROWD: 16, WIDE_PAIR: 2, WIDE_TRIO: 3}
UNKNOWN, WIDE_UNKNOWN = 77, 777
#: Those that have members.
ROUTED = (RAW, EVENT, FENCED, WIDE_RAW, WIDE_EVENT, *SEVERAL)
#: What the fuzz tests configure.
TOPICS = (RAW, EVENT, LONELY, FENCED)
#: The ids of those whose events the broker stamps.
STAMPED = {topic.id for topic in ROUTED if topic.framing is Framing.EVENT}
#: Three datagrams at once and then one a second: the others are refused, or left to the slow path.
LIMITED = Topic(8, "limited", Quality.BQ, 5, Framing.EVENT, rate=1, burst=3)
SPILLING = Topic(9, "spilling", Quality.SQ, 5, Framing.RAW, rate=1, burst=3, overflow=Overflow.PASS)

PORT = 9998
#: The largest UDP payload of a 1500-byte IPv4 packet.
MTU_PAYLOAD = 1472
PUBLISHER, SENT = 0xDEADBEEF, 1_700_000_000_123_456_789


@dataclass(frozen=True, slots=True)
class Addresses:
    """The frame's way: from the publisher's MAC and IP to the broker's; ``member`` is a far address."""

    src_mac: str
    dst_mac: str
    src: str
    broker: str
    member: str


@dataclass(frozen=True, slots=True)
class Row:
    """One packet of the table.

    ``fast``: how the fast path counts it; ``generic``: the same on skbs, where it differs.
    ``outcome``: FORWARDED, a reason the slow path counts, or None for what never reaches the broker.
    ``frames``: what enters; several only where fragments make one datagram. ``partial``: the kernel
    must take the UDP checksum for one that is still to be filled in, as from a local socket. ``groups``:
    how many the topic has; of what is forwarded each gets a copy, or so many where some do not get all.
    ``more``: the topic has more than one group, whatever its copies. ``kept``: one of them gets it from its
    sender. ``mark``: what the frame is sent with (tagging.py).
    """

    name: str
    fast: Reason
    outcome: Reason | None
    frames: Callable[[Addresses], list[bytes]]
    generic: Reason | None = None
    partial: bool = False
    groups: int = 1
    mark: int = 0
    kept: bool = False
    more: bool = False

    @property
    def several(self) -> bool:
        """Whether its topic has several groups."""
        return self.groups > 1 or self.more


ROWS: list[Row] = []
#: Those whose VLAN tag lies beside the frame, which only real interfaces can do.
BESIDE: list[Row] = []


def row(
    name: str,
    fast: Reason,
    outcome: Reason | None,
    frames: Callable[[Addresses], list[bytes]],
    *,
    generic: Reason | None = None,
    partial: bool = False,
    groups: int = 1,
) -> None:
    ROWS.append(Row(name, fast, outcome, frames, generic, partial, groups))


def datagram(at: Addresses, payload: bytes, *, udp: dict | None = None, **ip: object) -> Packet:
    """A good datagram to the broker's data port, with fields of IPv4 and UDP to taste."""
    layers = IP(**{"src": at.src, "dst": at.broker, "ttl": 64, "flags": "DF", **ip})
    return (
        Ether(src=at.src_mac, dst=at.dst_mac)
        / layers
        / UDP(**{"sport": 40000, "dport": PORT, **(udp or {})})
        / Raw(payload)
    )


def event(body: bytes = b"body", *, topic: int = EVENT.id, **fields: int) -> bytes:
    """An event payload; ``version``, ``flags``, ``reserved``, ``epoch`` overwrite the header's."""
    header = bytearray(encode_event(topic, PUBLISHER, 5, SENT, body, fields.get("flags", 0)))
    flags_at, reserved_at = (1, 2) if topic < 256 else (24, fields.get("reserved_at", 25))
    header[flags_at] = fields.get("version", 1) << 4 | header[flags_at] & 0x0F
    header[reserved_at] = fields.get("reserved", 0)
    header[3] = fields.get("epoch", 0)
    return bytes(header)


def topic_of(frame: bytes) -> int:
    """The id in a frame that the table has."""
    return topic_in(frame[42:])


#: Of a request; what is in it matters to nobody on the way.
ENVELOPE = b"\x11\x00" + bytes(range(100, 130))


def raw(body: bytes = b"hello", topic: int = RAW.id) -> bytes:
    return raw_header(topic) + body


def pseudo_sum(frame: bytes) -> int:
    """What a local sender leaves in the checksum field: the folded pseudo-header sum, not complemented."""
    length = len(frame) - 34
    words = struct.unpack("!6H", frame[26:34] + struct.pack("!HH", 17, length))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def partial(frame: bytes) -> bytes:
    """The frame as a local socket hands it to veth: CHECKSUM_PARTIAL."""
    return frame[:40] + struct.pack("!H", pseudo_sum(frame)) + frame[42:]


def one(build: Callable[[Addresses], Packet]) -> Callable[[Addresses], list[bytes]]:
    return lambda at: [bytes(build(at))]


def cut(length: int) -> Callable[[Addresses], list[bytes]]:
    """A good event frame that ends after ``length`` bytes."""
    return lambda at: [bytes(datagram(at, event()))[:length]]


def good(name: str, payload: bytes) -> None:
    row(name, Reason.FORWARDED, Reason.FORWARDED, one(lambda at: datagram(at, payload)))


def refused(
    name: str, reason: Reason, payload: bytes, outcome: Reason | None = None, groups: int = 1
) -> None:
    row(name, reason, outcome or reason, one(lambda at: datagram(at, payload)), groups=groups)


# --- good ones, by framing and size ------------------------------------------------------------
good("raw: topic and five bytes", raw())
good("raw: nothing but the topic", raw(b""))
good("raw: odd length", raw(b"ab"))
good("raw: minimum Ethernet size", raw(bytes(17)))
good("raw: as large as the MTU", raw(bytes(range(256)) * 5 + bytes(MTU_PAYLOAD - 1281)))
good("raw: one byte below the MTU", raw(b"\xff" * (MTU_PAYLOAD - 2)))
good("raw: looks like an event of version 9", raw(b"\x90" + bytes(30)))
good("event: small body", event())
good("event: no body", event(b""))
good("event: odd body", event(b"odd"))
good("event: as large as the MTU", event(b"\xa5" * (MTU_PAYLOAD - 24)))
good("event: body of zeros", event(bytes(64)))
good("event: body of ones", event(b"\xff" * 64))
good("event: epoch and sequence set by the sender", event(epoch=0xEE))
good("event: BATCH", encode_batch(EVENT.id, PUBLISHER, 9, SENT, [b"a", b"bc", b"def"]))
good("event: DUP and TRACE", event(flags=2 | 4))
good("event: BATCH that is none inside", event(b"\xff\xff1", flags=1))
good("request: small body", event(ENVELOPE + b"body", flags=8))
good("request: no body", event(ENVELOPE, flags=8))
good("request: as large as the MTU, and TRACE", event(ENVELOPE + bytes(MTU_PAYLOAD - 56), flags=8 | 4))

# --- marks in the IPv4 header: tempos writes its own, those of the topic's class ---------------
for tos in (0x02, 0x03, 0xB8, 0xFF):
    for kind, payload in (("raw", raw(b"marked")), ("event", event(b"marked"))):
        row(
            f"{kind}: DSCP {tos >> 2}, ECN {tos & 3}",
            Reason.FORWARDED,
            Reason.FORWARDED,
            one(lambda at, p=payload, t=tos: datagram(at, p, tos=t)),  # type: ignore[misc]
        )
row(
    "event: a mark and no checksum",
    Reason.FORWARDED,
    Reason.FORWARDED,
    one(lambda at: datagram(at, event(), tos=0x2E, udp={"chksum": 0})),
)
row(
    "raw: a mark, on the slow path",
    Reason.IP_OPTIONS,
    Reason.FORWARDED,
    one(lambda at: datagram(at, raw(b"marked"), tos=0x6B, options=[IPOption_NOP()] * 4)),
)

# --- UDP checksum ------------------------------------------------------------------------------
for kind, payload in (("raw", raw(b"checksum")), ("event", event(b"checksum!"))):
    row(
        f"{kind}: checksum zero",
        Reason.FORWARDED,
        Reason.FORWARDED,
        one(lambda at, p=payload: datagram(at, p, udp={"chksum": 0})),  # type: ignore[misc]
    )
row(
    "raw: source port 0 and a high source address",
    Reason.FORWARDED,
    Reason.FORWARDED,
    one(lambda at: datagram(at, raw(), udp={"sport": 0})),
)
row(
    "raw: Ethernet padding behind the datagram",
    Reason.FORWARDED,
    Reason.FORWARDED,
    lambda at: [bytes(datagram(at, raw(b"pad"))) + b"\x55" * 14],
)
for kind, payload in (("raw", raw(b"partial")), ("event", event(b"partial"))):
    row(
        f"{kind}: checksum partial, as a local socket leaves it",
        Reason.FORWARDED,
        Reason.FORWARDED,
        lambda at, p=payload: [partial(bytes(datagram(at, p)))],  # type: ignore[misc]
        partial=True,
    )


def ambiguous(at: Addresses, body: bytes = b"?\0\0") -> list[bytes]:
    """A full and right checksum that happens to equal the pseudo-header sum; the body is 3 bytes or more."""
    draft = bytes(datagram(at, raw(body), udp={"chksum": 0}))
    draft = draft[:44] + bytes(2) + draft[46:]
    # P + D + check = 0xffff with check = P: the payload's second word makes D what that takes.
    words = draft[34:] + bytes(len(draft) % 2)
    rest = sum(struct.unpack(f"!{len(words) // 2}H", words)) + 2 * pseudo_sum(draft)
    while rest >> 16:
        rest = (rest & 0xFFFF) + (rest >> 16)
    return [partial(draft[:44] + struct.pack("!H", 0xFFFF - rest) + draft[46:])]


row(
    "raw: a full checksum that could be a partial one",
    Reason.FORWARDED,
    Reason.FORWARDED,
    ambiguous,
    generic=Reason.AMBIGUOUS_CHECKSUM,
)

# --- payloads that are refused -----------------------------------------------------------------
row("empty datagram", Reason.EMPTY, Reason.EMPTY, one(lambda at: datagram(at, b"")))
refused("topic 0", Reason.NO_ROUTE, raw(topic=0), Reason.RESERVED_TOPIC)
refused("a member's keep-alive", Reason.KEEP_ALIVE, KEEP_ALIVE)
refused("a keep-alive and more", Reason.NO_ROUTE, KEEP_ALIVE + b"\0", Reason.RESERVED_TOPIC)
refused("half a keep-alive", Reason.NO_ROUTE, KEEP_ALIVE[:1], Reason.RESERVED_TOPIC)
refused("topic nobody configured", Reason.NO_ROUTE, raw(topic=UNKNOWN), Reason.UNKNOWN_TOPIC)
refused("topic without a member", Reason.NO_ROUTE, raw(topic=LONELY.id), Reason.NO_MEMBER)
refused("event: only the topic byte", Reason.SHORT_HEADER, bytes((EVENT.id,)))
refused("event: header short of one byte", Reason.SHORT_HEADER, event(b"")[:23])
refused("event: version 0", Reason.BAD_VERSION, event(version=0))
refused("event: version 2", Reason.BAD_VERSION, event(version=2))
refused("event: reserved byte", Reason.RESERVED_BITS, event(reserved=1))
refused("event: reserved byte and an envelope", Reason.RESERVED_BITS, event(ENVELOPE, flags=8, reserved=1))
refused(
    "request: envelope of an unknown version", Reason.BAD_ENVELOPE, event(b"\x21" + ENVELOPE[1:], flags=8)
)
refused("request: envelope of an unknown kind", Reason.BAD_ENVELOPE, event(b"\x14" + ENVELOPE[1:], flags=8))
refused("request: envelope of no kind", Reason.BAD_ENVELOPE, event(b"\x10" + ENVELOPE[1:], flags=8))
refused("request: envelope short of one byte", Reason.BAD_ENVELOPE, event(ENVELOPE[:-1], flags=8))
refused("request: no envelope at all", Reason.BAD_ENVELOPE, event(b"", flags=8))
refused("request: in a batch", Reason.BAD_ENVELOPE, event(ENVELOPE + b"batch", flags=8 | 1))
# Replies are the slow path's to send on; these have no address of the broker's making.
refused("reply", Reason.REPLY, event(b"\x12" + ENVELOPE[1:] + b"reply", flags=8), Reason.BAD_RETURN)
refused("reply: an error", Reason.REPLY, event(b"\x13" + ENVELOPE[1:], flags=8 | 4), Reason.BAD_RETURN)

# --- who may publish ---------------------------------------------------------------------------
good("event: from a network of the topic", event(topic=FENCED.id))
row(
    "event: from a network that is none of the topic's",
    Reason.FOREIGN_SOURCE,
    Reason.FOREIGN_SOURCE,
    one(lambda at: datagram(at, event(topic=FENCED.id), src="192.0.2.7")),
)
row(
    "reply: from a network that is none of the topic's, which says whose events it takes",
    Reason.FOREIGN_SOURCE,
    Reason.BAD_RETURN,
    one(lambda at: datagram(at, event(b"\x12" + ENVELOPE[1:], topic=FENCED.id, flags=8), src="192.0.2.7")),
)
row(
    "event: broken, and from a foreign network",
    Reason.FOREIGN_SOURCE,
    Reason.FOREIGN_SOURCE,
    one(lambda at: datagram(at, event(topic=FENCED.id, version=9), src="192.0.2.7")),
)


# --- wide topics ------------------------------------------------------------------------------
WIDE = WIDE_EVENT.id
good("wide raw: nothing but the id", raw(b"", WIDE_RAW.id))
good("wide raw: five bytes", raw(b"hello", WIDE_RAW.id))
good("wide raw: odd length", raw(b"ab", WIDE_RAW.id))
good("wide raw: as large as the MTU", raw(bytes(MTU_PAYLOAD - 3), WIDE_RAW.id))
good("wide event: small body", event(topic=WIDE))
good("wide event: no body", event(b"", topic=WIDE))
good("wide event: odd body", event(b"odd", topic=WIDE))
good("wide event: as large as the MTU", event(b"\xa5" * (MTU_PAYLOAD - 28), topic=WIDE))
good("wide event: body of ones", event(b"\xff" * 64, topic=WIDE))
good("wide event: epoch set by the sender", event(topic=WIDE, epoch=0xEE))
good("wide event: BATCH", encode_batch(WIDE, PUBLISHER, 9, SENT, [b"a", b"bc", b"def"]))
good("wide event: DUP and TRACE", event(topic=WIDE, flags=2 | 4))
good("wide request", event(ENVELOPE + b"body", topic=WIDE, flags=8))
for kind, payload in (("raw", raw(b"sum", WIDE_RAW.id)), ("event", event(b"sum!", topic=WIDE))):
    row(
        f"wide {kind}: checksum zero",
        Reason.FORWARDED,
        Reason.FORWARDED,
        one(lambda at, p=payload: datagram(at, p, udp={"chksum": 0})),  # type: ignore[misc]
    )
    row(
        f"wide {kind}: checksum partial",
        Reason.FORWARDED,
        Reason.FORWARDED,
        lambda at, p=payload: [partial(bytes(datagram(at, p)))],  # type: ignore[misc]
        partial=True,
    )
    row(
        f"wide {kind}: TTL 1", Reason.TTL, Reason.TTL,
        one(lambda at, p=payload: datagram(at, p, ttl=1)),  # type: ignore[misc]
    )  # fmt: skip
    row(
        f"wide {kind}: IPv4 options",
        Reason.IP_OPTIONS,
        Reason.FORWARDED,
        one(lambda at, p=payload: datagram(at, p, options=[IPOption_NOP()] * 4)),  # type: ignore[misc]
    )
refused("wide: no id", Reason.SHORT_HEADER, b"\xff")
refused("wide: half an id", Reason.SHORT_HEADER, b"\xff\x01")
refused("wide: id 0", Reason.NO_ROUTE, b"\xff\0\0", Reason.RESERVED_TOPIC)
refused("wide: a narrow id", Reason.NO_ROUTE, b"\xff\0\1", Reason.RESERVED_TOPIC)
refused("wide: id 255", Reason.NO_ROUTE, b"\xff\0\xff", Reason.RESERVED_TOPIC)
refused("wide: id 65535", Reason.NO_ROUTE, b"\xff\xff\xff", Reason.RESERVED_TOPIC)
refused("wide: nobody's id", Reason.NO_ROUTE, raw(topic=WIDE_UNKNOWN), Reason.UNKNOWN_TOPIC)
for length in (3, 24, 27):
    refused(f"wide event: {length} bytes", Reason.SHORT_HEADER, event(b"", topic=WIDE)[:length])
refused("wide event: version 0", Reason.BAD_VERSION, event(topic=WIDE, version=0))
refused("wide event: version 2", Reason.BAD_VERSION, event(topic=WIDE, version=2))
for at in (25, 26, 27):
    broken = event(topic=WIDE, reserved=1, reserved_at=at)
    refused(f"wide event: reserved byte {at}", Reason.RESERVED_BITS, broken)
refused("wide request: envelope cut", Reason.BAD_ENVELOPE, event(ENVELOPE[:-1], topic=WIDE, flags=8))
refused("wide reply", Reason.REPLY, event(b"\x12" + ENVELOPE[1:], topic=WIDE, flags=8), Reason.BAD_RETURN)


# --- topics with several groups ----------------------------------------------------------------
def several(topic: Topic, groups: int) -> None:
    """What must come out once for each group, whoever makes the copies."""

    def body(text: bytes) -> bytes:
        return event(text, topic=topic.id) if topic.framing is Framing.EVENT else raw(text, topic.id)

    def copied(name: str, build: Callable[[Addresses], list[bytes]], *, partial: bool = False) -> None:
        row(
            f"{groups} groups, {topic.name}: {name}",
            Reason.FORWARDED,
            Reason.FORWARDED,
            build,
            partial=partial,
            groups=groups,
        )

    whole = body(bytes(MTU_PAYLOAD - len(body(b""))))
    copied("small", one(lambda at: datagram(at, body(b"to all"))))
    copied("odd", one(lambda at: datagram(at, body(b"to all!"))))
    copied("no body", one(lambda at: datagram(at, body(b""))))
    copied("body of ones", one(lambda at: datagram(at, body(b"\xff" * 64))))
    copied("as large as the MTU", one(lambda at: datagram(at, whole)))
    copied("checksum zero", one(lambda at: datagram(at, body(b"none"), udp={"chksum": 0})))
    copied("TTL 2", one(lambda at: datagram(at, body(b"ttl 2"), ttl=2)))
    row(
        f"{groups} groups, {topic.name}: TTL 1", Reason.TTL, Reason.TTL,
        one(lambda at: datagram(at, body(b"ttl 1"), ttl=1)), groups=groups,
    )  # fmt: skip
    copied("Ethernet padding", lambda at: [bytes(datagram(at, body(b"pad"))) + b"\x55" * 14])
    copied("checksum partial", lambda at: [partial(bytes(datagram(at, body(b"part"))))], partial=True)


for topic, groups in SEVERAL.items():
    several(topic, groups)
refused("3 groups: version 0", Reason.BAD_VERSION, event(topic=TRIO.id, version=0), groups=3)
refused("16 groups: reserved byte", Reason.RESERVED_BITS, event(topic=CROWD.id, reserved=1), groups=16)

# --- the slow path takes what the fast path is not sure of -------------------------------------
row("TTL 1", Reason.TTL, Reason.TTL, one(lambda at: datagram(at, raw(b"ttl 1"), ttl=1)))
row("TTL 0", Reason.TTL, Reason.TTL, one(lambda at: datagram(at, raw(b"ttl 0"), ttl=0)))
row("event: broken, TTL 1", Reason.BAD_VERSION, Reason.BAD_VERSION,
    one(lambda at: datagram(at, event(version=9), ttl=1)))  # fmt: skip
row("TTL 2", Reason.FORWARDED, Reason.FORWARDED, one(lambda at: datagram(at, raw(b"ttl 2"), ttl=2)))
row("TTL 255", Reason.FORWARDED, Reason.FORWARDED, one(lambda at: datagram(at, event(), ttl=255)))
row(
    "IPv4 options",
    Reason.IP_OPTIONS,
    Reason.FORWARDED,
    one(lambda at: datagram(at, raw(b"options"), options=[IPOption_NOP()] * 4)),
)
row(
    "UDP length short of the packet's",
    Reason.BAD_LENGTH,
    Reason.FORWARDED,
    one(lambda at: datagram(at, raw(b"cut here|and not here"), udp={"len": 8 + 9, "chksum": 0})),
)


def fragments(at: Addresses) -> list[bytes]:
    """One raw datagram in two fragments."""
    whole = bytes(UDP(sport=40000, dport=PORT, len=8 + 33, chksum=0) / Raw(raw(b"f" * 32)))
    common = {"src": at.src, "dst": at.broker, "id": 4711, "proto": 17}
    link = Ether(src=at.src_mac, dst=at.dst_mac)
    return [
        bytes(link / IP(flags="MF", frag=0, **common) / Raw(whole[:24])),
        bytes(link / IP(flags=0, frag=3, **common) / Raw(whole[24:])),
    ]


row("two fragments", Reason.FRAGMENT, Reason.FORWARDED, fragments)
row("the first of two fragments alone", Reason.FRAGMENT, None, lambda at: fragments(at)[:1])
row(
    "broadcast MAC, unicast address",
    Reason.NOT_UNICAST,
    Reason.FORWARDED,
    one(lambda at: _with(datagram(at, raw(b"broadcast")), dst="ff:ff:ff:ff:ff:ff")),
)

for source in ("240.0.0.1", "0.1.2.3"):
    row(
        f"a source that no host has, and the stack takes, {source}", Reason.MARTIAN_SOURCE, Reason.FORWARDED,
        one(lambda at, s=source: datagram(at, raw(b"strange"), src=s)),  # type: ignore[misc]
    )  # fmt: skip

# --- what the stack refuses, whatever it carries -----------------------------------------------
for groups, topic in ((1, RAW), (3, TRIO)):
    payload = event(topic=topic.id) if topic is TRIO else raw()
    for mac in ("02:00:00:00:00:07", "02:00:00:00:00:03"):
        row(
            f"{groups} group(s): to another MAC, {mac}", Reason.OTHER_MAC, None,
            one(lambda at, p=payload, m=mac: _with(datagram(at, p), dst=m)), groups=groups,  # type: ignore[misc]
        )  # fmt: skip
    row(
        f"{groups} group(s): to the sender's own MAC", Reason.OTHER_MAC, None,
        one(lambda at, p=payload: _with(datagram(at, p), dst=at.src_mac)), groups=groups,  # type: ignore[misc]
    )  # fmt: skip
    for source in (
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "224.0.0.1",
        "239.1.2.3",
        "255.255.255.255",
    ):
        row(
            f"{groups} group(s): from {source}", Reason.MARTIAN_SOURCE, None,
            one(lambda at, p=payload, s=source: datagram(at, p, src=s)), groups=groups,  # type: ignore[misc]
        )  # fmt: skip
    row(
        f"{groups} group(s): from the broker's own address", Reason.MARTIAN_SOURCE, None,
        one(lambda at, p=payload: datagram(at, p, src=at.broker)), groups=groups,  # type: ignore[misc]
    )  # fmt: skip
for source in ("1.0.0.1", "126.255.255.255", "128.0.0.1", "223.255.255.254", "192.168.200.1"):
    row(
        f"from {source}", Reason.FORWARDED, Reason.FORWARDED,
        one(lambda at, s=source: datagram(at, raw(b"far"), src=s)),  # type: ignore[misc]
    )  # fmt: skip

# --- not the broker's, or broken ---------------------------------------------------------------
row("frame ends after Ethernet", Reason.TRUNCATED, None, cut(14))
row("frame ends inside IPv4", Reason.TRUNCATED, None, cut(14 + 19))
row("frame ends after IPv4", Reason.TRUNCATED, None, cut(14 + 20))
row("frame ends inside UDP", Reason.TRUNCATED, None, cut(14 + 20 + 7))
row("frame ends after UDP", Reason.BAD_LENGTH, None, cut(14 + 28))
row("frame ends inside the event header", Reason.BAD_LENGTH, None, cut(14 + 28 + 23))
row(
    "no room for UDP in the packet",
    Reason.TRUNCATED,
    None,
    one(lambda at: _link(at) / IP(src=at.src, dst=at.broker, proto=17) / Raw(b"1234567")),
)
row(
    "UDP length beyond the packet's",
    Reason.BAD_LENGTH,
    None,
    one(lambda at: datagram(at, raw(), udp={"len": 60, "chksum": 0})),
)
row(
    "UDP length below its header",
    Reason.BAD_LENGTH,
    None,
    one(lambda at: datagram(at, raw(), udp={"len": 7, "chksum": 0})),
)
row("IPv4 length beyond the frame", Reason.BAD_LENGTH, None, one(lambda at: datagram(at, raw(), len=400)))
row("IPv4 header length 16", Reason.BAD_LENGTH, None, one(lambda at: datagram(at, raw(), ihl=4)))
row("IPv4 that says version 6", Reason.NOT_IPV4, None, one(lambda at: datagram(at, raw(), version=6)))
row("IPv4 checksum wrong", Reason.BAD_IP_CHECKSUM, None, one(lambda at: datagram(at, raw(), chksum=1)))
row("other port", Reason.OTHER_PORT, None, one(lambda at: datagram(at, raw(), udp={"dport": 9999})))
row(
    "to a node behind the broker",
    Reason.OTHER_ADDRESS,
    None,
    one(lambda at: datagram(at, raw(), dst=at.member)),
)
row("TCP", Reason.NOT_UDP, None, one(lambda at: _link(at) / IP(src=at.src, dst=at.broker) / TCP(dport=PORT)))
row("ICMP echo", Reason.NOT_UDP, None, one(lambda at: _link(at) / IP(src=at.src, dst=at.broker) / ICMP()))
row(
    "ARP request",
    Reason.NOT_IPV4,
    None,
    one(lambda at: _link(at) / ARP(hwsrc=at.src_mac, psrc=at.src, pdst=at.broker)),
)
row("IPv6", Reason.NOT_IPV4, None, one(lambda at: _link(at) / IPv6() / UDP(dport=PORT) / Raw(raw())))
row(
    "VLAN tag",
    Reason.VLAN,
    None,
    one(lambda at: _link(at) / Dot1Q(vlan=5) / IP(src=at.src, dst=at.broker) / UDP(dport=PORT) / Raw(raw())),
)


def _link(at: Addresses) -> Packet:
    return Ether(src=at.src_mac, dst=at.dst_mac)


def _with(frame: Packet, **fields: object) -> Packet:
    for name, value in fields.items():
        setattr(frame, name, value)
    return frame


# --- VLAN tags beside the frame ----------------------------------------------------------------
for tag, kind, outcome in (
    (10, "VLAN 10", None),
    (0xFFF, "VLAN 4095 and its priority", None),
    # A tag without a VLAN only says a priority: the kernel takes what has one as if it had none.
    (0x0000, "a priority of 0 and no VLAN", Reason.FORWARDED),
    (0xE000, "a priority of 7 and no VLAN", Reason.FORWARDED),
):
    for service in (False, True):
        for topic, groups in ((RAW, 1), (EVENT, 1), (PAIR, 2), (TRIO, 3)):
            payload = (
                event(b"tagged", topic=topic.id) if topic.framing is Framing.EVENT else raw(b"t", topic.id)
            )
            BESIDE.append(
                Row(
                    f"{topic.name}: {kind}, beside the frame{', 802.1ad' if service else ''}",
                    Reason.VLAN,
                    outcome,
                    one(lambda at, p=payload: datagram(at, p)),  # type: ignore[misc]
                    groups=groups,
                    mark=mark_of(tag, service=service),
                )
            )
