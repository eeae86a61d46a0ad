"""Constants and layouts shared with the C side. Generated from fastpath/bpf/abi.h; do not edit.

To change it, edit the header and run ``python -m tempos_fastpath.abigen``.
"""

import enum
import struct

DATA_PORT = 9998
CONTROL_PORT = 9997
API_PORT = 9996
WIRE_VERSION = 1
EVENT_HEADER_LEN = 24
BATCH_LENGTH_LEN = 2
FLAG_BATCH = 1
FLAG_DUP = 2
FLAG_TRACE = 4
FLAG_ENVELOPE = 8
ENVELOPE_VERSION = 1
ENVELOPE_LEN = 32
KIND_REQUEST = 1
KIND_REPLY = 2
KIND_ERROR = 3
ERROR_OF_REPLIER = 0
ERROR_NO_MEMBER = 1
ERROR_TOO_BIG = 2
PROBE_VERSION_1 = 1
PROBE_LEN = 56
PROBE_MARKS_LEN = 32
PROBE_SLOW = 1
TOPIC_MIN = 1
TOPIC_MAX = 65534
NARROW = 256
WIDE = 255
WIDE_ID_LEN = 3
WIDE_HEADER_LEN = 28
WIDE_FLAGS_AT = 24
IDS = 65536
WIDE_IDS = 65279
PRIORITIES = 8
SERVICE = 0
SERVICE_PROOF = 1
SERVICE_KEEP_ALIVE = 2
SERVICE_SENT = 3
SERVICE_REPLAYED = 4
SERVICE_AGAIN = 5
SERVICE_LACKING = 6
SERVICE_WAITING = 7
SERVICE_HANDED = 8
REPLAYED = 1
REDELIVERED = 2
KEEP_ALIVE_LEN = 2
MAX_GROUPS = 16
GROUPS_PER_TOPIC = 64
MAX_MEMBERS = 512
SMALL_MEMBERS = 8
SPREAD_SLOTS = 1024
SPREAD_GROUPS = 4
SPREAD_MEMBERS = 48
SPREAD_AT = 256
SIEVE_AT = 124
RANGES = 512
MAX_LISTEN = 8
MAX_EGRESS = 64
MAX_SOURCES = 8
MAX_MACS = 8
MAX_SUSPECTS = 64
NO_HOST = 1
MAX_VLANS = 16
VLAN_SHIFT = 20
ROUTE_LIMITED = 1
ROUTE_TAGGED = 2
MAX_CHECKED = 8192
MAX_SENDERS = 4096
BRIDGE_HEARS_MS = 5000
MAX_FANOUTS = 4096
HEARD_FRAMES = 0
HEARD_SETTLED = 1
MAX_FANOUT_EGRESS = 7
TRIAL_TAKEN = 0
TRIAL_REFUSED = 1
TRIAL_ERROR = 2
LATENCY_STEP_BITS = 3
LATENCY_BUCKETS = 256
LATENCY_BEYOND = 17179869184
JOURNAL_CELL = 128
JOURNAL_TICKETS = 32
JOURNAL_BYTES = 1472
JOURNAL_MOST_BYTES = 9000
JOURNAL_MOST_EVENTS = 1048576
JOURNAL_GUARDS = 4096
LIMIT_SHIFT = 10

#: Of the layout of everything the kernel keeps from one broker to the next.
ABI_FINGERPRINT = 0xa04c6610de32d451


class Reason(enum.IntEnum):
    """How a datagram left a data path."""

    FORWARDED = 0
    NOT_IPV4 = 1
    VLAN = 2
    TRUNCATED = 3
    NOT_UNICAST = 4
    IP_OPTIONS = 5
    FRAGMENT = 6
    NOT_UDP = 7
    OTHER_ADDRESS = 8
    OTHER_PORT = 9
    BAD_LENGTH = 10
    BAD_IP_CHECKSUM = 11
    TTL = 12
    NO_ROUTE = 13
    TOO_BIG = 14
    AMBIGUOUS_CHECKSUM = 15
    EMPTY = 16
    SHORT_HEADER = 17
    BAD_VERSION = 18
    RESERVED_BITS = 19
    NO_EGRESS = 20
    RESERVED_TOPIC = 21
    UNKNOWN_TOPIC = 22
    NO_MEMBER = 23
    QUEUE_FULL = 24
    CUT_SHORT = 25
    SEND_ERROR = 26
    SOCKET_OVERRUN = 27
    BURST = 28
    FOREIGN_SOURCE = 29
    BROKER_GONE = 30
    OVER_RATE = 31
    OVER_RATE_PASSED = 32
    WORKER_LOST = 33
    BY_CLONE = 34
    BAD_ENVELOPE = 35
    REPLY = 36
    BAD_RETURN = 37
    REPLY_UNSENT = 38
    OTHER_MAC = 39
    MARTIAN_SOURCE = 40
    UNKNOWN_WAY_BACK = 41
    KEEP_ALIVE = 42
    FOR_BRIDGE = 43
    REPEATED = 44

    @property
    def label(self) -> str:
        """The name in output, metrics and documentation."""
        return self.name.lower()


#: What each of them means, for people.
REASON_TEXTS = {
    Reason.FORWARDED: 'handed to one member of every group',
    Reason.NOT_IPV4: 'the frame carries no IPv4',
    Reason.VLAN: "the frame has, or had, a VLAN tag that is the kernel's to see to",
    Reason.TRUNCATED: 'the frame ends inside a header',
    Reason.NOT_UNICAST: 'the frame is addressed to a multicast or broadcast MAC',
    Reason.IP_OPTIONS: 'the IPv4 header has options',
    Reason.FRAGMENT: 'the packet is an IPv4 fragment',
    Reason.NOT_UDP: 'the packet carries no UDP',
    Reason.OTHER_ADDRESS: 'the destination is not an address the broker listens on',
    Reason.OTHER_PORT: "the destination is not the data port, nor any topic's",
    Reason.BAD_LENGTH: 'frame, IPv4 and UDP lengths contradict each other',
    Reason.BAD_IP_CHECKSUM: 'the IPv4 header checksum is wrong',
    Reason.TTL: 'the TTL is used up',
    Reason.NO_ROUTE: 'the fast path holds no route for the topic',
    Reason.TOO_BIG: 'larger than the smallest MTU on the way to the members',
    Reason.AMBIGUOUS_CHECKSUM: 'the UDP checksum could be a full or a partial one',
    Reason.EMPTY: 'the datagram has no payload, so no topic',
    Reason.SHORT_HEADER: 'a datagram shorter than its header',
    Reason.BAD_VERSION: 'an event datagram of an unknown wire version',
    Reason.RESERVED_BITS: 'an event datagram with reserved bits set',
    Reason.NO_EGRESS: 'the fast path could not redirect: the event is lost',
    Reason.RESERVED_TOPIC: 'an id that no topic can have: 0, 255 or 65535, or a narrow one in wide form',
    Reason.UNKNOWN_TOPIC: 'no topic with this id is configured',
    Reason.NO_MEMBER: 'the topic has no member at all',
    Reason.QUEUE_FULL: "the slow path's queue of this class was full",
    Reason.CUT_SHORT: "larger than the slow path's receive buffer",
    Reason.SEND_ERROR: 'the kernel refused to send to a member: lost to that group',
    Reason.SOCKET_OVERRUN: "the kernel's socket buffer was full before the broker could read",
    Reason.BURST: 'several datagrams in one buffer (GSO, GRO): cut up only further on',
    Reason.FOREIGN_SOURCE: "the source is not in the topic's networks",
    Reason.BROKER_GONE: 'user space is gone and the policy says pass',
    Reason.OVER_RATE: "faster than the topic's rate, which says drop",
    Reason.OVER_RATE_PASSED: "faster than the topic's rate, which says pass: left to the slow path",
    Reason.WORKER_LOST: 'taken by the process for strict events, which died before sending it',
    Reason.BY_CLONE: 'handed on to the tc program, which makes the copies for the groups',
    Reason.BAD_ENVELOPE: 'an envelope that is cut, around a batch, or of an unknown version or kind',
    Reason.REPLY: 'a reply to a request: the slow path sends it on to who asked',
    Reason.BAD_RETURN: "a reply whose return address is not of this broker's making, or too old",
    Reason.REPLY_UNSENT: 'a reply that the kernel refused to send on',
    Reason.OTHER_MAC: "the frame is addressed to a MAC that is not this interface's",
    Reason.MARTIAN_SOURCE: "a source that the kernel may refuse: no host's, or this machine's own",
    Reason.UNKNOWN_WAY_BACK: 'the kernel has not said yet that it takes the source from this interface',
    Reason.KEEP_ALIVE: "a member's keep-alive: a firewall or NAT lets through what answers it",
    Reason.FOR_BRIDGE: 'one of a sender now and then: a bridge forgets whom it does not hear',
    Reason.REPEATED: 'an event that its publisher has sent again meanwhile, which came first',
}


class Way(enum.IntEnum):
    """How the kernel carries a topic, that is who makes the copies for its groups."""

    ONE = 0
    BROADCAST = 1
    CLONE = 2

    @property
    def label(self) -> str:
        """The name in output, metrics and documentation."""
        return self.name.lower()


#: What each of them means, for people.
WAY_TEXTS = {
    Way.ONE: 'one group, no copy: the XDP program redirects the frame itself',
    Way.BROADCAST: 'XDP redirects into a devmap with one slot for each copy',
    Way.CLONE: 'XDP hands the packet on, the tc program clones it',
}


class Tags(enum.IntEnum):
    """How an XDP program learns of a VLAN tag that was taken off a frame before it runs."""

    IN_FRAME = 0
    NOTED = 1
    READ = 2
    HEARD = 3

    @property
    def label(self) -> str:
        """The name in output, metrics and documentation."""
        return self.name.lower()


#: What each of them means, for people.
TAGS_TEXTS = {
    Tags.IN_FRAME: 'no VLAN tag is taken off a frame before the program sees it',
    Tags.NOTED: 'generic mode: a tracing program notes VLAN tags',
    Tags.READ: 'native mode on veth: VLAN tags stand in the socket buffer, which is in reach',
    Tags.HEARD: 'native mode: not told of VLAN tags; once a frame with one was heard of, all pass',
}

#: The event header: topic, version_flags, reserved, epoch, publisher, sequence, delivery_sequence, sent_ns.
EVENT_HEADER = struct.Struct("!BBBBIIIQ")
OFFSET_TOPIC = 0
OFFSET_VERSION_FLAGS = 1
OFFSET_RESERVED = 2
OFFSET_EPOCH = 3
OFFSET_PUBLISHER = 4
OFFSET_SEQUENCE = 8
OFFSET_DELIVERY_SEQUENCE = 12
OFFSET_SENT_NS = 16

#: What stands behind it with FLAG_ENVELOPE: version_kind, code, port, ip, via, until, data_port, seal, token.
ENVELOPE = struct.Struct("!BBHIIIH8s6s")
ENVELOPE_VERSION_KIND = 0
ENVELOPE_CODE = 1
ENVELOPE_PORT = 2
ENVELOPE_IP = 4
ENVELOPE_VIA = 8
ENVELOPE_UNTIL = 12
ENVELOPE_DATA_PORT = 16
ENVELOPE_SEAL = 18
ENVELOPE_TOKEN = 26

#: What a probe and its report begin with: version, path, reserved, broker_clock, taken_ns, left_ns, clock, received_ns, ip, port, spare, group_len.
PROBE = struct.Struct("!BB6s8sQQ8sQIHBB")
PROBE_VERSION = 0
PROBE_PATH = 1
PROBE_RESERVED = 2
PROBE_BROKER_CLOCK = 8
PROBE_TAKEN_NS = 16
PROBE_LEFT_NS = 24
PROBE_CLOCK = 32
PROBE_RECEIVED_NS = 40
PROBE_IP = 48
PROBE_PORT = 52
PROBE_SPARE = 54
PROBE_GROUP_LEN = 55
