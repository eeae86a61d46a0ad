"""The control protocol: one msgpack map asks, one answers, over UDP and apart from the data.

Pure functions and values for both ends. Every request carries an id and is idempotent, so that a
client may repeat it until an answer comes. Which operations exist and which fields they take is the
table :data:`OPERATIONS`; both ends and the documentation are made from it.

A request:  {"v": 1, "id": u32, "op": str, "client": u64, ...fields, "pad": zero bytes}
A reply:    {"v": 1, "id": u32, "ok": {...}}  or  {"v": 1, "id": u32, "error": {"code", "text", "hint"}}

A broker never answers with more bytes than it was asked with, so that nobody can use it to flood a third
party; ``pad`` makes the room that the answer takes. :mod:`tempos.auth` wraps both in a signature. Nor does
anybody answer a reply, else one forged datagram would keep two brokers busy with each other. What is larger
than a control datagram can be, or nested deeper, is not looked at any further by either end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import msgpack

from tempos import names
from tempos._abi import DATA_PORT
from tempos._fields import (
    Asked as Asked,
)
from tempos._fields import (
    Confirm as Confirm,
)
from tempos._fields import (
    Consumed as Consumed,
)
from tempos._fields import (
    Dropped as Dropped,
)
from tempos._fields import (
    Former as Former,
)
from tempos._fields import (
    Heard as Heard,
)
from tempos._fields import (
    Lacking as Lacking,
)
from tempos._fields import (
    Missing as Missing,
)
from tempos._fields import (
    Received as Received,
)
from tempos._fields import (
    Repaired as Repaired,
)
from tempos._fields import (
    Replay as Replay,
)
from tempos._fields import Said, without_id
from tempos._fields import (
    Sent as Sent,
)
from tempos._fields import (
    Taking as Taking,
)
from tempos._fields import (
    Told as Told,
)
from tempos._fields import (
    is_deeper as is_deeper,
)
from tempos.errors import ControlRefused, WireError

VERSION = 1
#: Of what a client repeats to prove that it receives (:mod:`tempos.session.proof`).
PROOF_BYTES = 16
#: A control datagram never grows beyond what every IPv4 path carries, signature included.
MAX_DATAGRAM = 1200
#: Lists and maps in each other, and what is in one of them: more than any request or reply has.
MAX_DEPTH, MAX_KEYS, MAX_ITEMS = 8, 32, 512
#: Characters of a group's name.
MAX_GROUP = 64
#: Places that a client names where it was a member before.
MAX_FORMER = 4
#: The longest a drain may wait for confirmation, and what it waits if it does not say, milliseconds.
MAX_PATIENCE, PATIENCE = 60_000, 5_000
#: Back-off of a client: seconds before each repetition; five tries in all.
RETRY_AFTER = (0.2, 0.4, 0.8, 1.6, 3.2)

#: Bytes that a request is padded to at least, and bytes of padding that those have at least whose answer
#: repeats what they name: topic, group, and the broker's timing.
PADDED, PADDED_ANSWER, PAD_ANSWER = 256, 512, 128
#: Bytes of an answer to a heartbeat, and of it for each topic that is asked about.
ANSWER, PER_TOPIC = 96, 16
#: As :attr:`Asked.known`: what publishers have told is of no use.
USELESS = 0xFFFFFFFFFFFFFFFF
_TELLING = frozenset({"hello", "resolve", "subscribe"})
#: Bytes of a request whose answer is to list as much as there is room for, before it is signed.
FULL = MAX_DATAGRAM - 128

#: Bytes of the name and the head of ``pad``.
_PAD_HEAD = 7
#: Names and filters in one request at most, and bytes that they may take.
MAX_WANTED, WANTED_BYTES = 256, 700

U32 = 0xFFFFFFFF
U64 = 0xFFFFFFFFFFFFFFFF


class Code:
    """Error codes of replies."""

    BAD_REQUEST = "bad request"
    UNKNOWN_OPERATION = "unknown operation"
    UNKNOWN_TOPIC = "unknown topic"
    UNKNOWN_MEMBER = "unknown member"
    NOT_ALLOWED = "not allowed"
    LIMIT = "limit reached"
    CLOCK = "clock differs"
    TOO_SHORT = "request too short"
    #: No answer yet: what is asked for is the next broker's to give.
    STOPPING = "stopping"
    KEPT_OUT = "kept out"
    #: What came to the data port is to be repeated (:mod:`tempos.session.proof`).
    PROVE = "prove"
    #: A signed request names no broker, or another one: it is asked again by the name that is told.
    ADDRESSEE = "addressee"
    #: A copy of what the client asked before it left again.
    LATE = "late"
    #: Those of what is no answer: the request goes on being repeated.
    NOT_YET = (STOPPING, PROVE)


class Out:
    """Why one is no member of a topic any more, in the answer to a heartbeat, and what that is in words."""

    LEASE = "lease"
    OPERATOR = "operator"
    KEPT_OUT = "kept out"
    UNHEARD = "unheard"
    RELOAD = "reload"
    REMOVED = "removed"
    LIMIT = "limit"
    ELSEWHERE = "elsewhere"
    RIGHT = "right"

    #: Those of them after which the broker makes it a member again by itself.
    BROKERS_TURN = frozenset({KEPT_OUT, UNHEARD, LIMIT, RELOAD, REMOVED, ELSEWHERE, RIGHT})

    WORDS: Mapping[str, str] = {
        LEASE: "its lease had ended",
        OPERATOR: "an operator had taken it out",
        KEPT_OUT: "an operator keeps it out",
        UNHEARD: "none of the events that it was sent reached it",
        RELOAD: "the broker's configuration has changed",
        REMOVED: "the topic was removed",
        LIMIT: "there is no room for one more",
        ELSEWHERE: "its endpoint is in another group of it",
        RIGHT: "its client has no right to it any more",
    }


#: What a datagram is counted under that is no request but a reply.
REPLY = "reply"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a request: its name, what it holds in words, and the test for it."""

    name: str
    kind: str
    required: bool = True


#: What a member tells of itself. ``full``: its epochs are whole numbers, not only their low 8 bits.
#: ``dropped``: of what was received, what its program was not given. ``waiting`` events of at most ``queue``
#: wait for the program, and ``overruns`` datagrams at least were lost for want of room in its socket.
#: ``publishers``: whose events it got, where that is news, and ``lacking``: what it knows to be missing; of
#: the former ``untold`` rows are not in this request. ``topics``: of which it asks what is in force.
#: ``since``: [life, version], up to which version of this life of the broker it knows its memberships, or []
#: where it does not ask; who does not name it is told what is in force of its ``topics``.
#: ``instance``: whose account all of it is for; another broker, or one that has lost its memory, began anew.
#: ``former``: where the same client was a member, of which this tells, too. ``repairs``: what became of
#: deliveries that were missing, of topics that are repaired. ``hears``: the brokers of a fleet that it takes
#: events of, by number, which its home alone is told.
_TOLD = (
    Field("received", "counts"),
    Field("instance", "number", required=False),
    Field("full", "flag", required=False),
    Field("dropped", "drops", required=False),
    *(Field(name, "count", required=False) for name in ("waiting", "queue", "overruns")),
    Field("publishers", "heard", required=False),
    Field("lacking", "lacking", required=False),
    Field("untold", "count", required=False),
    Field("topics", "asked", required=False),
    Field("since", "version", required=False),
    Field("former", "former", required=False),
    Field("repairs", "repairs", required=False),
    Field("hears", "numbers", required=False),
)

#: How an answer lists memberships: what is new from version ``base`` up to ``version``, of ``count`` in all,
#: and whether there is ``more``. ``rows``: [topic id, name, about (:mod:`.session.rows`), epoch, members
#: of the group], with the group where it is not the answer's; ``gone``: [topic id, name, why (:class:`Out`)],
#: and it in words where there is more to say; ``journals``: the ids of those in ``rows`` that have one,
#: ``retained``: of which a member first has the last event sent (:class:`Replay`), ``repaired``: of which
#: what is missing is sent again, and ``redelivered``: of which what members leave behind goes to others.
#: ``fleet``: [state, confirmed, brokers]: who is in the fleet (another number
#: after each change), how many of its brokers have this member in force, and how many there are.
_LISTED = (
    "life", "base", "version", "count", "more", "rows", "gone", "journals", "retained", "repaired", "fleet",
    "redelivered",
)  # fmt: skip

#: operation -> what it is for, its fields, the fields of its answer
OPERATIONS: dict[str, tuple[str, tuple[Field, ...], tuple[str, ...]]] = {
    "hello": ("who is there", (), ("broker", "instance", "lease_ms", "heartbeat_ms")),
    "resolve": (
        "a topic by its name",
        (Field("topic", "topic"),),
        ("topic", "members", "clock", "largest", "single", "data_port"),
    ),
    "subscribe": (
        "become a member of a group of a topic, or of 'topics', names and filters; no group means its own",
        (
            Field("topic", "topic", required=False),
            Field("topics", "wanted", required=False),
            Field("port", "port"),
            Field("group", "group", required=False),
            Field("since", "version", required=False),
            Field("former", "former", required=False),
            Field("proof", "proof", required=False),
            Field("hears", "numbers", required=False),
        ),
        ("topic", "group", "epoch", "lease_ms", "heartbeat_ms", "instance", "clock", "failed", *_LISTED),
    ),
    "unsubscribe": (
        "leave what was asked for by a name or a filter",
        (Field("topic", "filter"), Field("port", "port"), Field("group", "group", required=False)),
        (),
    ),
    "heartbeat": (
        "renew the lease of every membership of this endpoint; tells what arrived, asks what is in force",
        (Field("port", "port"), *_TOLD),
        ("epochs", "out", "life", "told", "unheard", *_LISTED),
    ),
    "drain": (
        "leave everything, losing nothing: answered when all that was ticketed is confirmed, or too late",
        (Field("port", "port"), *_TOLD, Field("patience_ms", "milliseconds", required=False)),
        ("ticketed", "delivered", "lost", "told"),
    ),
    "goodbye": ("leave everything; tells what arrived", (Field("port", "port"), *_TOLD), ()),
    "sent": (
        "a publisher tells what it has sent of each topic since it began; final: it sends no more",
        (Field("publisher", "number"), Field("sent", "sent"), Field("final", "flag", required=False)),
        ("heartbeat_ms", "life", "gone", "largest", "single"),
    ),
    "replay": (
        "have sent, out of the journals, what came before this was a member; 'after': a position, or 0",
        (Field("port", "port"), Field("instance", "number"), Field("replays", "replays")),
        ("replayed",),
    ),
    "repair": (
        "have sent again what is missing; with a number of 0: be told of a topic what was sent last",
        (Field("port", "port"), Field("missing", "missing"), Field("instance", "number", required=False)),
        ("sent", "gone"),
    ),
    "fleet": (
        "the brokers of a fleet, behind the number 'after': [number, address, data port, control port]",
        (Field("after", "number", required=False),),
        ("name", "me", "changes", "ready", "brokers", "more"),
    ),
    "confirm": (
        "what of a publisher's events has come: [topic, certain for so many ms, up to, [first, count, ...] "
        "lacking], or [topic, why nobody can tell]; it is asked for what lacks for a while",
        (Field("publisher", "number"), Field("confirm", "confirm")),
        ("confirmed",),
    ),
    "redeliver": (
        "tell what was processed, and take what members that are gone were sent; 'final': that was the last",
        (
            Field("port", "port"),
            Field("instance", "number"),
            Field("consumed", "consumed"),
            Field("taking", "taking"),
            Field("final", "flag", required=False),
            Field("together", "flag", required=False),
        ),
        ("life", "handed"),
    ),
    "return_address": (
        "where replies reach this client: what it puts into the envelopes of its requests, for so long",
        (Field("port", "port"),),
        ("address", "lifetime_ms", "probes"),
    ),
}


class Request(NamedTuple):
    """A decoded request. ``client`` is the random number a client chose at its start."""

    id: int
    op: str
    client: int
    fields: Mapping[str, Any]


#: The last heartbeats of so many, none of them larger than this.
_SAID_BYTES, _SAID_MOST = 2 * PADDED, 4096
_SAID: Said[Request] = Said(_SAID_MOST)


@dataclass(frozen=True, slots=True)
class Reply:
    """A decoded answer: exactly one of ``ok`` and ``error`` is set."""

    id: int
    ok: Mapping[str, Any] | None
    error: ControlRefused | None
    #: Beside an error with the code PROVE: what is to be repeated.
    proof: bytes = b""
    #: And where events will come from, if that is not the usual port.
    data_port: int = DATA_PORT
    #: Beside an error with the code ADDRESSEE: what requests name this broker by; 0: they name none.
    addressee: int = 0


class BadRequest(WireError):
    """A request that cannot be served; carries what an error reply needs, if the id could be read."""

    def __init__(self, text: str, code: str, hint: str, request_id: int | None) -> None:
        super().__init__(text)
        self.code = code
        self.hint = hint
        self.request_id = request_id


def encode_request(op: str, request_id: int, client: int, *, roomy: bool = False, **fields: Any) -> bytes:
    """A request datagram, padded for its answer. ``received`` takes a list of :class:`Received`.

    ``roomy``: its answer may be as long as any.
    """
    present = {key: value for key, value in fields.items() if value is not None}
    message = {"v": VERSION, "id": request_id, "op": op, "client": client, **present}
    bare = bytes(msgpack.packb(message))
    wanted = max(PADDED, ANSWER + PER_TOPIC * len(fields.get("topics") or ()))
    pad = max(PAD_ANSWER, PADDED_ANSWER - len(bare)) if op in _TELLING else wanted - len(bare)
    if roomy:
        pad = FULL - len(bare) - _PAD_HEAD
    return bytes(msgpack.packb({**message, "pad": bytes(pad)})) if pad > 0 else bare


def decode_request(datagram: bytes) -> Request:
    """Decode and check a request; raises :class:`BadRequest` and nothing else, whatever the bytes.

    A heartbeat that says what one before has said, under another id, is not decoded again; so fields are
    never to be changed.
    """
    cut = without_id(datagram) if len(datagram) <= _SAID_BYTES else None
    if cut is not None and (known := _SAID.get(cut[1])) is not None:
        return Request(cut[0], known.op, known.client, known.fields)
    request = _decode_request(datagram)
    if cut is not None and request.id == cut[0] and request.op == "heartbeat":
        _SAID.put(cut[1], request)
    return request


def _decode_request(datagram: bytes) -> Request:
    message = _unpack_map(datagram)
    if message is None:
        raise BadRequest("not a msgpack map that a request can be", Code.BAD_REQUEST, "", None)
    if "op" not in message and ("ok" in message or "error" in message):
        raise BadRequest("a reply", REPLY, "", None)
    request_id = message.get("id")
    if not isinstance(request_id, int) or not _is_int(request_id, U32):
        raise BadRequest("no usable request id", Code.BAD_REQUEST, "", None)

    def refuse(text: str, hint: str, code: str = Code.BAD_REQUEST) -> BadRequest:
        return BadRequest(text, code, hint, request_id)

    if message.get("v") != VERSION:
        raise refuse(f"control version {_show(message.get('v'))}", f"this broker speaks version {VERSION}")
    client = message.get("client")
    if not isinstance(client, int) or not _is_int(client, U64):
        raise refuse("no usable client number", "send a random u64 as 'client'")
    op = message.get("op")
    if not isinstance(op, str) or op not in OPERATIONS:
        raise refuse(f"operation {_show(op)}", f"known: {', '.join(OPERATIONS)}", Code.UNKNOWN_OPERATION)
    known, needed = _FIELDS[op]
    # Most requests have few of the fields that they may have.
    given = {name: value for name, value in message.items() if name in known and value is not None}
    fields: dict[str, Any] = {**dict.fromkeys(known), **given}
    for name in given if given.keys() >= needed else known:
        value, (test, allowed, row, required) = fields[name], known[name]
        if value is None and not required:
            continue
        if not test(value):
            raise refuse(f"{op}: {name} is {_show(value)}", f"allowed: {allowed}")
        if row is not None:
            fields[name] = [row(*each) for each in cast("list[list[Any]]", value)]
    return Request(request_id, op, client, fields)


def packb(value: object) -> bytes:
    """A value as it travels."""
    return bytes(msgpack.packb(value))


def encode_ok(request_id: int, **fields: Any) -> bytes:
    """A positive answer."""
    return bytes(msgpack.packb({"v": VERSION, "id": request_id, "ok": fields}))


def encode_error(
    request_id: int,
    code: str,
    text: str,
    hint: str = "",
    proof: bytes = b"",
    data_port: int = DATA_PORT,
    addressee: int = 0,
) -> bytes:
    """A negative answer: what happened and what to do about it."""
    error: dict[str, Any] = {"code": code, "text": text, "hint": hint}
    if addressee:
        error["addressee"] = addressee
    if proof:
        error["proof"] = proof
        if data_port != DATA_PORT:
            error["data_port"] = data_port
    return bytes(msgpack.packb({"v": VERSION, "id": request_id, "error": error}))


def encode_error_within(
    room: int,
    request_id: int,
    code: str,
    text: str,
    hint: str = "",
    proof: bytes = b"",
    data_port: int = DATA_PORT,
    addressee: int = 0,
) -> bytes | None:
    """A negative answer of at most ``room`` bytes, or None if the code alone is more.

    The hint is left out first, then the text.
    """
    for kept_text, kept_hint in ((text, hint), (text, ""), ("", "")):
        datagram = encode_error(request_id, code, kept_text, kept_hint, proof, data_port, addressee)
        if len(datagram) <= room:
            return datagram
    return None


def decode_reply(datagram: bytes) -> Reply:
    """Decode an answer; raises :class:`WireError` and nothing else, whatever the bytes."""
    message = _unpack_map(datagram)
    if message is None or message.get("v") != VERSION or not _is_int(message.get("id"), U32):
        raise WireError("not a control reply of this version")
    ok, error = message.get("ok"), message.get("error")
    if isinstance(ok, dict) and error is None:
        return Reply(message["id"], ok, None)
    if isinstance(error, dict) and ok is None:
        texts = [error.get(key, "") for key in ("code", "text", "hint")]
        if all(isinstance(text, str) for text in texts):
            proof, port = error.get("proof", b""), error.get("data_port")
            refused = ControlRefused(*texts)
            proof = proof if isinstance(proof, bytes) else b""
            to = error.get("addressee")
            return Reply(
                message["id"], None, refused, proof, port if _is_int(port, 0xFFFF) and port else DATA_PORT,
                to if isinstance(to, int) and _is_u64(to) else 0,
            )  # fmt: skip
    raise WireError("a control reply that is neither an answer nor an error")


def _unpack_map(datagram: bytes) -> dict[Any, Any] | None:
    if len(datagram) > MAX_DATAGRAM:
        return None
    try:
        message = msgpack.unpackb(
            datagram, strict_map_key=False, max_map_len=MAX_KEYS, max_array_len=MAX_ITEMS
        )
    # msgpack raises a dozen unrelated types for foreign bytes; all mean the same here.
    except Exception:  # noqa: BLE001
        return None
    return message if isinstance(message, dict) and not is_deeper(message, MAX_DEPTH) else None


def _is_int(value: object, maximum: int) -> bool:
    return type(value) is int and 0 <= value <= maximum


def _is_u64(value: object) -> bool:
    return _is_int(value, U64)


def _is_group(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_GROUP and value.isprintable()


def _are_wanted(value: object) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= MAX_WANTED
        and all(names.filter_fault(each) is None for each in value)
    )


def _is_version(value: object) -> bool:
    return value == [] or (
        isinstance(value, list) and len(value) == 2 and _is_int(value[0], U32) and _is_u64(value[1])
    )


#: What the rows of a field are, by its kind; and the tests for what stands in them, by its name: a u64 where
#: nothing is said.
_ROWS: dict[str, Any] = {
    "counts": Received,
    "drops": Dropped,
    "heard": Heard,
    "lacking": Lacking,
    "asked": Asked,
    "sent": Sent,
    "former": Former,
    "replays": Replay,
    "repairs": Repaired,
    "missing": Missing,
    "confirm": Confirm,
    "consumed": Consumed,
    "taking": Taking,
}
_IN_ROWS: dict[str, Callable[[object], bool]] = {
    "topic": lambda value: _is_int(value, 0xFFFF),
    "group": _is_group,
    "epoch": lambda value: _is_int(value, U32),
    "publisher": lambda value: _is_int(value, U32),
    "first": lambda value: _is_int(value, U32),
    "number": lambda value: _is_int(value, U32),
    "ip": lambda value: isinstance(value, str) and 7 <= len(value) <= 15,
    "port": lambda value: _is_int(value, 0xFFFF) and value != 0,
}


def _rows(kind: Any) -> tuple[Callable[[object], bool], str]:
    """The test for a list of such rows, and what it allows in words."""
    tests = [_IN_ROWS.get(name, _is_u64) for name in kind._fields]

    def test(value: object) -> bool:
        return isinstance(value, list) and all(
            isinstance(row, list)
            and len(row) == len(tests)
            and all(is_right(each) for is_right, each in zip(tests, row, strict=True))
            for row in value
        )

    return test, f"a list of [{', '.join(kind._fields)}]"


_KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "topic": (lambda value: names.name_fault(value) is None, names.NAME_RULE),
    "filter": (lambda value: names.filter_fault(value) is None, names.FILTER_RULE),
    "wanted": (_are_wanted, f"a list of 1-{MAX_WANTED} names or filters: {names.FILTER_RULE}"),
    "version": (_is_version, "[] or [life, version]"),
    "group": (_is_group, f"printable text of 1-{MAX_GROUP} characters"),
    "milliseconds": (lambda value: _is_int(value, MAX_PATIENCE), f"milliseconds, 0-{MAX_PATIENCE}"),
    "port": (lambda value: _is_int(value, 0xFFFF) and value != 0, "a UDP port, 1-65535"),
    "number": (lambda value: _is_int(value, U32), "a number of 32 bits"),
    "count": (_is_u64, "a count"),
    "numbers": (
        lambda value: isinstance(value, list) and all(_is_int(each, U32) for each in value),
        "a list of numbers of 32 bits",
    ),
    "flag": (lambda value: isinstance(value, bool), "true or false"),
    "proof": (
        lambda value: isinstance(value, bytes) and len(value) in (0, PROOF_BYTES),
        f"{PROOF_BYTES} bytes that came to the data port, or none to ask for them",
    ),
    **{name: _rows(kind) for name, kind in _ROWS.items()},
}


#: By operation: of each field the test, what is allowed, what its rows are, whether it has to be there; and
#: those that have to.
_FIELDS = {
    op: (
        {each.name: (*_KINDS[each.kind], _ROWS.get(each.kind), each.required) for each in fields},
        {each.name for each in fields if each.required},
    )
    for op, (_, fields, _) in OPERATIONS.items()
}


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
