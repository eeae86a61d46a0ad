"""A broker small enough to read in a minute: what the clients are tested against.

:class:`MiniBroker` decides without I/O; :class:`MiniBrokerThread` puts it behind two loopback sockets.
It has one group policy (round robin), no leases and no queues.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tempos import Framing, Topic, control, names, wire
from tempos.session.rows import about


@dataclass
class MiniBroker:
    topics: tuple[Topic, ...]
    instance: int = 1
    lease_ms: int = 10_000
    heartbeat_ms: int = 2_500
    #: (topic name, group) -> endpoints; the group of nobody's name is that of its endpoint.
    groups: dict[tuple[str, str], list[tuple[str, int]]] = field(default_factory=dict)
    epochs: Counter[str] = field(default_factory=Counter)
    tickets: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: (topic id, group, epoch) -> datagrams, as told by heartbeats.
    told: dict[tuple[int, str, int], int] = field(default_factory=dict)
    #: (publisher, topic id) -> what it said that it has sent, and whether that was its last word.
    sent: dict[tuple[int, int], tuple[control.Sent, bool]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    #: Called for each control datagram, before anything else.
    heard: Callable[[], None] = lambda: None

    def restart(self, *topics: Topic) -> None:
        """Forget everything, as a new process would."""
        self.instance += 1
        self.topics = topics or self.topics
        for state in (self.groups, self.epochs, self.tickets, self.told):
            state.clear()

    def answer(self, datagram: bytes, ip: str) -> bytes:
        request = control.decode_request(datagram)
        assert len(datagram) <= control.MAX_DATAGRAM
        self.seen[request.op] += 1
        fields = request.fields
        timing = {"lease_ms": self.lease_ms, "heartbeat_ms": self.heartbeat_ms, "instance": self.instance}
        if request.op == "hello":
            return control.encode_ok(request.id, broker="mini", **timing)
        if request.op == "subscribe":
            return self.subscribe(request, ip, timing)
        if request.op == "resolve":
            topic = next((topic for topic in self.topics if topic.name == fields["topic"]), None)
            if topic is None:
                hint = f"known: {', '.join(topic.name for topic in self.topics)}"
                return control.encode_error(
                    request.id, control.Code.UNKNOWN_TOPIC, f"no topic {fields['topic']!r}", hint
                )
            told = {
                "id": topic.id,
                "name": topic.name,
                "class": topic.quality.value,
                "priority": topic.priority,
                "framing": topic.framing.value,
            }
            members = len(self.members(topic.name))
            return control.encode_ok(request.id, topic=told, members=members, clock=7)
        if request.op == "sent":
            for row in fields["sent"]:
                self.sent[fields["publisher"], row.topic] = (row, bool(fields["final"]))
            there = {topic.id for topic in self.topics}
            gone = [row.topic for row in fields["sent"] if row.topic not in there]
            more = {"gone": gone} if gone else {}
            return control.encode_ok(request.id, heartbeat_ms=self.heartbeat_ms, life=self.instance, **more)
        known = [members for members in self.groups.values() if (ip, fields["port"]) in members]
        for row in fields["received"]:
            self.told[row.topic, row.group, row.epoch] = row.datagrams
        if not known:
            return control.encode_error(request.id, control.Code.UNKNOWN_MEMBER, "who is that", "subscribe")
        if request.op == "goodbye":
            for members in known:
                members.remove((ip, fields["port"]))
        if request.op == "heartbeat":
            listed = self.listed((ip, fields["port"]), fields["since"])
            return control.encode_ok(request.id, life=self.instance, **listed)
        return control.encode_ok(request.id)

    def subscribe(self, request: control.Request, ip: str, timing: dict[str, int]) -> bytes:
        fields, endpoint = request.fields, (ip, request.fields["port"])
        group = fields["group"] or f"~{ip}:{fields['port']}"
        found = {
            wanted: [topic.name for topic in self.topics if names.matches(wanted, topic.name)]
            for wanted in fields["topics"] or [fields["topic"]]
        }
        for wanted, matching in found.items():
            if not matching and not names.is_filter(wanted):
                hint = f"known: {', '.join(topic.name for topic in self.topics)}"
                return control.encode_error(
                    request.id, control.Code.UNKNOWN_TOPIC, f"no topic {wanted!r}", hint
                )
        for name in (name for matching in found.values() for name in matching):
            members = self.groups.setdefault((name, group), [])
            if endpoint not in members:
                members.append(endpoint)
                self.next_epoch(name)
        listed = self.listed(endpoint, fields["since"])
        return control.encode_ok(request.id, life=self.instance, clock=7, **timing, **listed)

    def listed(self, endpoint: tuple[str, int], since: list[int] | None) -> dict[str, object]:
        """All memberships, where anything has changed since then."""
        mine = {name: (group, len(members)) for (name, group), members in self.groups.items()
                if endpoint in members}  # fmt: skip
        rows = [
            (topic.id, topic.name, about(topic), self.epochs[topic.name], size, group)
            for topic in self.topics
            for group, size in [mine.get(topic.name, ("", 0))]
            if size
        ]
        version = sum(self.epochs.values())
        new = since != [self.instance, version]
        base = 0 if new else version
        return {"base": base, "version": version, "count": len(mine), "more": False,
                "rows": rows if new else []}  # fmt: skip

    def next_epoch(self, topic: str) -> None:
        self.epochs[topic] += 1
        for key in [key for key in self.tickets if key[0] == topic]:
            del self.tickets[key]

    def members(self, topic: str) -> list[tuple[str, int]]:
        return [member for (name, _), members in self.groups.items() if name == topic for member in members]

    def route(self, datagram: bytes) -> list[tuple[bytes, tuple[str, int]]]:
        """What to send to whom."""
        topic = next((topic for topic in self.topics if topic.id == datagram[0]), None)
        copies = []
        for (name, group), members in self.groups.items() if topic else ():
            if topic is None or name != topic.name or not members:
                continue
            sequence, pick = divmod(self.tickets[name, group], len(members))
            self.tickets[name, group] += 1
            copy = bytearray(datagram)
            if topic.framing is Framing.EVENT:
                wire.stamp(copy, self.epochs[name], sequence)
            copies.append((bytes(copy), members[pick]))
        return copies


class MiniBrokerThread:
    """A :class:`MiniBroker` on loopback. ``deaf``: take control datagrams and answer nothing."""

    def __init__(
        self,
        *topics: Topic,
        lease_ms: int = 10_000,
        heartbeat_ms: int = 2_500,
        at: str = "127.0.0.1",
        ports: tuple[int, int] = (0, 0),
    ) -> None:
        self.core = MiniBroker(topics, lease_ms=lease_ms, heartbeat_ms=heartbeat_ms)
        self.deaf = False
        self.changed = threading.Condition()
        self._data, self._control = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        self._wake, self._woken = socket.socketpair()
        for sock, port in zip((self._data, self._control), ports, strict=True):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.bind((at, port))
        self.data_port: int = self._data.getsockname()[1]
        self.control_port: int = self._control.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="minibroker")

    def __enter__(self) -> MiniBrokerThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.send(b"x")
        self._thread.join()
        for sock in (self._data, self._control, self._wake, self._woken):
            sock.close()

    def wait(self, condition: object, limit: float = 5.0) -> bool:
        """Wait until ``condition()`` is true; it is looked at after each control datagram."""
        assert callable(condition)
        with self.changed:
            return bool(self.changed.wait_for(condition, limit))

    def send(self, datagram: bytes, endpoint: tuple[str, int]) -> None:
        self._data.sendto(datagram, endpoint)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for sock in (self._data, self._control, self._woken):
                selector.register(sock, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._woken in ready:
                    return
                if self._data in ready:
                    for copy, endpoint in self.core.route(self._data.recv(65536)):
                        # A member that has just gone may send an ICMP refusal.
                        with contextlib.suppress(ConnectionRefusedError):
                            self._data.sendto(copy, endpoint)
                if self._control in ready:
                    datagram, address = self._control.recvfrom(65536)
                    self.core.heard()
                    with self.changed:
                        if not self.deaf:
                            self._control.sendto(self.core.answer(datagram, address[0]), address)
                        self.changed.notify_all()
