"""The topics of one publisher: those that it sends to now, and those that are no more or others now."""

from __future__ import annotations

from collections.abc import Sequence

from tempos import wire
from tempos.control import Sent
from tempos.encryption import OVERHEAD, Decryptor, Encryptor, TopicKey, TopicKeys
from tempos.errors import LocalError
from tempos.model import Framing, Topic
from tempos.sending.outlet import VERSION, Outlet, are_one, halves, identity
from tempos.sending.window import Window


class Outlets:
    """``now``: by name, for whoever sends. ``keys``: of topics whose bodies are encrypted.

    ``window``: keeps what is sent.
    """

    def __init__(
        self, topics: Sequence[Topic] | None, keys: TopicKeys | None, window: Window | None = None
    ) -> None:
        self._keys = keys
        self._window = window
        self.now: dict[str, Outlet] = {topic.name: self.new(topic) for topic in topics or ()}
        self._former: dict[tuple[str, int, Framing], Outlet] = {}
        #: Events that have left by outlets that are no more.
        self.events_before = 0

    def new(self, topic: Topic, began: int | None = None) -> Outlet:
        """An outlet that nobody sends by; see :class:`Outlet`. Raises :class:`LocalError`."""
        keys = self._keys.of(topic) if self._keys is not None else []
        made = EncryptedOutlet(topic, began, keys) if keys else Outlet(topic, began)
        if self._window is not None:
            made.kept = self._window.of(topic.id)
        return made

    @property
    def all(self) -> list[Outlet]:
        """Those of now, and those that were."""
        return [*self.now.values(), *self._former.values()]

    @property
    def events(self) -> int:
        """All that have left."""
        held = (*self.now.values(), *self._former.values())
        return self.events_before + sum(each.events for each in held)

    def words(self) -> list[Sent]:
        """What has been sent of each, for the broker."""
        words = (outlet.word() for outlet in self.now.values())
        return [word for word in words if word is not None]

    def by_id(self, number: int) -> Outlet | None:
        """The one with this topic id."""
        return next((each for each in self.now.values() if each.id == number), None)

    def keep(self, datagrams: Sequence[bytes]) -> None:
        """Keep events that have left, a datagram each, until it is known that they came."""
        begin = 0
        while begin < len(datagrams):
            topic, end = wire.topic_in(datagrams[begin]), begin + 1
            outlet = self.by_id(topic)
            if outlet is not None and outlet.kept is not None and outlet.is_event:
                _, number = wire.named(datagrams[begin])
                for each in datagrams[end:]:
                    if wire.topic_in(each) != topic or wire.named(each)[1] != number + end - begin:
                        break
                    end += 1
                outlet.kept.put_all(datagrams[begin:end])
            begin = end

    def never_left(self, number: int) -> None:
        """An event of the topic with this id had been counted, and cannot be sent."""
        for outlet in (*self.now.values(), *self._former.values()):
            if outlet.id == number:
                outlet.events -= 1
                return

    def learnt(self, name: str, topic: Topic, began: int | None, limit: int) -> Outlet:
        """The broker was asked for a name, and this is its topic; ``limit`` as in :meth:`Outlet.narrow`.

        What had this name before is :meth:`gone`, if it was another one.
        """
        # Another task may have been quicker; its sequence goes on, as does that of one that is there again.
        outlet = self.now.get(name)
        if outlet is None:
            former = self._former.pop(identity(topic), None)
            outlet = self.now[name] = former or self.new(topic, began)
        outlet.narrow(limit)
        return outlet

    def of(self, topic: Topic, limit: int) -> Outlet:
        """The outlet of a topic that is given whole; raises :class:`LocalError` if its name is another's."""
        outlet = self.now.get(topic.name)
        if outlet is None:
            # Whoever has its number goes by that; the sequence goes on.
            self.now[topic.name] = outlet = self._former.pop(identity(topic), None) or self.new(topic)
            outlet.narrow(limit)
        elif outlet.topic is not topic:
            known = outlet.topic
            if not are_one(known, topic):
                raise LocalError(
                    f"topic {topic.name!r} has id {known.id} and framing {known.framing.value} already, "
                    f"not {topic.id} and {topic.framing.value}: use another publisher for another broker"
                )
        return outlet

    def gone(self, name: str) -> None:
        """What has this name is not what it was."""
        outlet = self.now.pop(name)
        self._former[identity(outlet.topic)] = outlet

    def begin_anew(self) -> None:
        """Another broker is sent to: topics that were asked for are asked for there, and numbered anew."""
        for name, outlet in list(self.now.items()):
            if outlet.is_told:
                self.events_before += outlet.events
                del self.now[name]
        self.events_before += sum(each.events for each in self._former.values())
        self._former.clear()

    def forked(self) -> None:
        """In a child all are unknown: so each publish comes by the socket that is not there."""
        for outlet in self.now.values():
            outlet.bodies = []
        self.now.clear()

    def narrow(self, limit: int) -> None:
        """See :meth:`Outlet.narrow`."""
        for outlet in self.now.values():
            outlet.narrow(limit)


class EncryptedOutlet(Outlet):
    """A topic with encrypted bodies: that of a batch as a whole, that of a request behind its envelope."""

    def __init__(self, topic: Topic, began: int | None, keys: Sequence[TopicKey]) -> None:
        super().__init__(topic, began)
        self._encryptor = Encryptor(keys[0])
        self.decryptor = Decryptor(keys)
        self.header_len += OVERHEAD

    def single(self, publisher: int, now_ns: int, body: bytes) -> bytes:
        sequence = self.sequence
        self.sequence = sequence + 1
        return self._whole(self._header(VERSION, publisher, sequence & 0xFFFFFFFF, now_ns), body)

    def halves(self, batch: bytes) -> list[tuple[bytes, int]]:
        return [(self._again(half), count) for half, count in halves(self._encryptor.decrypt(batch))]

    def _again(self, datagram: bytes) -> bytes:
        at = self.header_len - OVERHEAD
        return self._whole(datagram[:at], datagram[at:])

    def _whole(self, head: bytes, body: bytes) -> bytes:
        return self._encryptor.encrypt(head, body)
