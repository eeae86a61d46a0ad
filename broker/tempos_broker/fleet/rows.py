"""What brokers of a fleet write into the registry: themselves, their members, and how far they have come.

Values and JSON. What somebody else wrote is read with suspicion: a value that makes no sense is none.
"""

from __future__ import annotations

import hashlib
import json
import socket
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from functools import lru_cache
from typing import Any

from tempos.control import U32, U64
from tempos.names import filter_fault
from tempos_broker.account.accounts import Holder
from tempos_broker.members.known import Wanted

#: What keys begin with: brokers by name, what each has in force by name, members by who they are, and those
#: brokers by name that are taken out of service.
BROKERS, IN_FORCE, MEMBERS, DRAINS = "brokers/", "in-force/", "members/", "drains/"
#: And what was made at run time: topics by name, clients by id.
TOPICS, CLIENTS = "topics/", "clients/"
#: What is claimed for such things until they are told of: ids and ports of topics, digests of clients' keys.
IDS, PORTS, KEYS = "ids/", "ports/", "keys/"
CLAIMS = (IDS, PORTS, KEYS)
#: Of such things, the option that is the rest of the key.
MADE = {TOPICS: "name", CLIENTS: "id"}
#: Values that are kept as they were read: as many as are told between two looks at what is told.
_ROWS_KEPT = 2048


@dataclass(frozen=True, slots=True)
class BrokerRow:
    """A broker: where members get their events from, and where it is asked. ``instance``: of its account."""

    name: str
    address: str
    data_port: int
    control_port: int
    instance: int
    zone: str = ""
    api: str = ""

    @property
    def number(self) -> int:
        """What clients know it by: whoever sends from another place is another one to them."""
        return zlib.crc32(f"{self.address}:{self.data_port}:{self.control_port}".encode())

    @property
    def key(self) -> str:
        return BROKERS + self.name

    def value(self) -> bytes:
        return _json(asdict(self))


@dataclass(frozen=True, slots=True)
class Drained:
    """How far a broker is that is taken out of service: members at home, whether nobody publishes there."""

    home: int | None = None
    quiet: bool = False

    @property
    def done(self) -> bool:
        return self.home == 0 and self.quiet

    def value(self) -> bytes:
        return _json(asdict(self))


@dataclass(frozen=True, slots=True)
class MadeRow:
    """The options of what was made at run time; None: it was removed, at this time (seconds since 1970).

    Those of a client have its key among them.
    """

    document: dict[str, Any] | None = field(repr=False)
    removed: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a broker is: the revision that it has in force, members of others that it serves, and lacks.

    And how many of the fleet's topics and clients it does not have as they are.
    """

    revision: int
    serves: int = 0
    lacks: int = 0
    topics: int = 0
    clients: int = 0

    def value(self) -> bytes:
        return _json(asdict(self))


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A member: its home, by name; the brokers that it hears, by number; what it wants.

    ``wanted``: names and filters, each with the group and the client whose rights it goes by.
    """

    holder: Holder
    home: str
    hears: tuple[int, ...]
    wanted: Mapping[str, tuple[str, str | None]]

    @property
    def key(self) -> str:
        return key_of(self.holder)

    def value(self) -> bytes:
        return _json({
            "home": self.home,
            "hears": self.hears,
            "wanted": [[name, *how] for name, how in self.wanted.items()],
        })  # fmt: skip

    def wants_at(self, source: str) -> dict[str, Wanted]:
        """What it wants of a broker that sends from this address."""
        return {name: Wanted(group, source, client) for name, (group, client) in self.wanted.items()}


def key_of(holder: Holder) -> str:
    """The key of a member."""
    return f"{MEMBERS}{holder.ip}:{holder.port}:{holder.client or 0:016x}"


def holder_in(key: str) -> Holder | None:
    """Whose key this is; None: nobody's."""
    try:
        ip, port, client = key.removeprefix(MEMBERS).split(":")
        holder = Holder(_ipv4(ip), int(port), int(client, 16))
    except (OSError, ValueError):
        return None
    return holder if 0 < holder.port <= 0xFFFF and 0 <= (holder.client or 0) <= U64 else None


def broker_in(key: str, value: bytes) -> BrokerRow | None:
    """The broker that a value tells of; None: none."""
    fields = _fields(value)
    try:
        row = BrokerRow(
            fields["name"], _ipv4(fields["address"]), fields["data_port"],
            fields["control_port"], fields["instance"], fields.get("zone", ""), fields.get("api", ""),
        )  # fmt: skip
    except (KeyError, OSError, TypeError, ValueError):
        return None
    ports = (row.data_port, row.control_port)
    texts = (row.name, row.zone, row.api)
    sound = all(type(port) is int and 0 < port <= 0xFFFF for port in ports) and type(row.instance) is int
    return row if sound and all(isinstance(text, str) for text in texts) and row.key == key else None


def _ipv4(text: str) -> str:
    """An address in dotted notation, or an OSError, ValueError or TypeError; made for many of them."""
    return socket.inet_ntop(socket.AF_INET, socket.inet_pton(socket.AF_INET, text))


@lru_cache(maxsize=_ROWS_KEPT)
def member_in(key: str, value: bytes) -> MemberRow | None:
    """The member that a value tells of; None: none.

    Who has written one hears it from the store as well: what was read of the last ones is kept.
    """
    fields, holder = _fields(value), holder_in(key)
    home, hears, wanted = fields.get("home"), fields.get("hears"), fields.get("wanted")
    if holder is None or not isinstance(home, str) or not isinstance(hears, list):
        return None
    if not all(type(each) is int and 0 <= each <= U32 for each in hears) or not isinstance(wanted, list):
        return None
    known: dict[str, tuple[str, str | None]] = {}
    for each in wanted:
        if not isinstance(each, list) or len(each) != 3 or filter_fault(each[0]) is not None:
            return None
        name, group, client = each
        if not isinstance(group, str) or not group or not isinstance(client, (str, type(None))):
            return None
        known[name] = (group, client)
    return MemberRow(holder, home, tuple(hears), known)


def progress_in(value: bytes) -> Progress | None:
    """How far a broker says that it is; None: it says nothing of sense."""
    fields = _fields(value)
    counts = [fields.get(each.name, 0) for each in dataclass_fields(Progress)]
    return Progress(*counts) if all(type(each) is int and each >= 0 for each in counts) else None


def made(document: Mapping[str, Any]) -> bytes:
    """What is written of what was made at run time with these options."""
    return _json({"options": document})


def removed(now: float) -> bytes:
    """What is written of what was removed at this time."""
    return _json({"removed": now})


def made_in(kind: str, name: str, value: bytes) -> MadeRow | None:
    """What a value tells of a thing of a kind; None: nothing of sense.

    Its options are judged where they are used.
    """
    fields = _fields(value)
    options, removed_at = fields.get("options"), fields.get("removed")
    if isinstance(options, dict) and options.get(MADE[kind]) == name:
        return MadeRow(options)
    if isinstance(removed_at, (int, float)) and not isinstance(removed_at, bool):
        return MadeRow(None, float(removed_at))
    return None


def owned(kind: str, document: Mapping[str, Any]) -> dict[str, str]:
    """What a thing with these options has to itself besides its name: in words, by what claims it."""
    if kind == CLIENTS:
        # By its digest, for what lists the store's keys shows these.
        key = document.get("key")
        digest = hashlib.sha256(key.encode()).hexdigest() if isinstance(key, str) else ""
        return {KEYS + digest: "the key"} if digest else {}
    ports = document.get("ports")
    known = [(IDS, "id", document.get("id"))]
    known += [(PORTS, "port", port) for port in (ports if isinstance(ports, list) else ())]
    return {f"{begin}{number}": f"{word} {number}" for begin, word, number in known if type(number) is int}


def drained_in(value: bytes) -> Drained:
    """How far a broker is that is taken out of service; what makes no sense says that it is nowhere."""
    fields = _fields(value)
    home, quiet = fields.get("home"), fields.get("quiet")
    return Drained(home if type(home) is int and home >= 0 else None, quiet is True)


def _fields(value: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
