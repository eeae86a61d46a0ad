"""Which topics there are, from the file and made at run time, and which ids are free.

Values in, values out: no I/O, time is an argument (monotonic seconds). Rules: a name and an id are one
topic's at a time, whoever made it; who asks for no id gets the lowest free one, but not one that was a
topic's until just now, for its publishers may still send.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from tempos import ConfigError
from tempos._abi import TOPIC_MAX, TOPIC_MIN
from tempos._rows import is_topic
from tempos_broker.config.model import BrokerConfig, Origin, TopicConfig
from tempos_broker.config.topics import document_of
from tempos_broker.reload import topic_changes

#: Seconds for which an id that a topic had is given to nobody who does not ask for it, if there are others.
REST = 60.0
_FREE, _TAKEN, _RESTS, _RESERVED = range(4)


class Ids:
    """A byte for each id there can be."""

    def __init__(self, ids: Iterable[int] = range(TOPIC_MIN, TOPIC_MAX + 1)) -> None:
        can_be = [each for each in ids if is_topic(each)]
        self._of = bytearray([_RESERVED]) * (can_be[-1] + 1)
        for each in can_be:
            self._of[each] = _FREE
        #: When those that rest began to, the first first.
        self._resting: OrderedDict[int, float] = OrderedDict()

    def take(self, topic: int) -> None:
        """It is a topic's from now on."""
        self._of[topic] = _TAKEN
        self._resting.pop(topic, None)

    def release(self, topic: int, now: float | None) -> None:
        """It is nobody's any more; None: nor was it ever served, so that it need not rest."""
        if now is None:
            self._of[topic] = _FREE
            return
        self._of[topic] = _RESTS
        self._resting[topic] = now

    def lowest(self, now: float, first: int = TOPIC_MIN) -> int | None:
        """The one to give next, from ``first`` on; None: there is none."""
        while self._resting and next(iter(self._resting.values())) <= now - REST:
            self._wake()
        found = self._of.find(_FREE, first)
        while found < first and self._resting:
            found = self._wake()
        return None if found < first else found

    def _wake(self) -> int:
        topic, _ = self._resting.popitem(last=False)
        self._of[topic] = _FREE
        return topic


class Catalogue:
    """Every topic with its static members and its origin, by name and by id."""

    def __init__(self, entries: Iterable[TopicConfig]) -> None:
        self._by_name: dict[str, TopicConfig] = {}
        self._by_id: dict[int, TopicConfig] = {}
        self.ids = Ids()
        for entry in entries:
            self.put(entry)

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[TopicConfig]:
        return iter(self._by_name.values())

    def named(self, name: str) -> TopicConfig | None:
        """The topic of this name."""
        return self._by_name.get(name)

    def numbered(self, topic: int) -> TopicConfig | None:
        """The topic of this id."""
        return self._by_id.get(topic)

    def made(self) -> list[TopicConfig]:
        """The topics that were made at run time."""
        return [entry for entry in self if entry.origin is Origin.RUN_TIME]

    def put(self, entry: TopicConfig) -> None:
        """A topic that is new, or the same with other options."""
        self._by_name[entry.topic.name] = self._by_id[entry.topic.id] = entry
        self.ids.take(entry.topic.id)

    def drop(self, entry: TopicConfig, now: float | None) -> None:
        """A topic that is no more; None: that never came to be."""
        del self._by_name[entry.topic.name], self._by_id[entry.topic.id]
        self.ids.release(entry.topic.id, now)

    def replace(self, gone: Iterable[int], entries: Iterable[TopicConfig], now: float) -> None:
        """Topics less, then others more, or with other options or of another origin."""
        for topic in gone:
            self.drop(self._by_id[topic], now)
        for entry in entries:
            self.put(entry)


def merged(config: BrokerConfig, made: Iterable[TopicConfig]) -> tuple[TopicConfig, ...]:
    """The topics of a file and those made at run time together; what stands in both is the file's.

    Raises :class:`ConfigError` with everything in which the two contradict each other.
    """
    by_name = {entry.topic.name: entry for entry in config.topics}
    by_id = {entry.topic.id: entry for entry in config.topics}
    by_port = {port: entry for entry in config.topics for port in entry.topic.ports}
    more, problems = [], []
    for entry in made:
        topic = entry.topic
        remove = f"`tempos ctl topic remove {topic.name!r}` while it runs without"
        taken = next((each for port in topic.ports if (each := by_port.get(port)) is not None), None)
        named, numbered = by_name.get(topic.name), by_id.get(topic.id)
        if named is None and taken is not None:
            problems.append(
                f"topic {taken.topic.name!r} of the file has a port that {topic.name!r} has, which was made "
                f"at run time: give it another, or remove that one: {remove}"
            )
        elif named is None and numbered is None:
            more.append(entry)
        elif named is None and numbered is not None:
            problems.append(
                f"topic {numbered.topic.name!r} of the file has id {topic.id}, as {topic.name!r} has, which "
                "was made at run time: give it another id, or take it out of the file and remove the other: "
                f"{remove}"
            )
        elif named is not None and named != entry:
            problems.append(
                f"topic {topic.name!r} ({topic.id}) was made at run time, and stands in the file otherwise "
                f"({'; '.join(contradictions(entry, named))}): write it there as it is (`tempos config dump` "
                f"does), or take it out of the file and remove it: {remove}"
            )
    if problems:
        raise ConfigError(problems)
    return (*config.topics, *more)


def check_count(config: BrokerConfig) -> None:
    """Raises :class:`ConfigError` for more topics, from wherever, than may be."""
    if len(config.topics) > config.limits.topics:
        raise ConfigError(
            [
                f"limits.topics is {config.limits.topics}, and there would be {len(config.topics)} topics, "
                "those made at run time included: remove some, or raise it and restart the broker"
            ]
        )


def contradictions(made: TopicConfig, file: TopicConfig) -> Iterator[str]:
    """In what two topics of one name differ, at run time -> in the file."""
    for key in ("id", "framing"):
        before, after = document_of(made)[key], document_of(file)[key]
        if before != after:
            yield f"{key} {before} -> {after}"
    yield from topic_changes(made, file)
