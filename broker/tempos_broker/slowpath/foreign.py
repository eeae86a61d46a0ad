"""The sockets of foreign topics: one for each of a topic's ports at each listen address.

Only events come by them. What leaves does so by the data sockets of the topic's class, like all other events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tempos import Quality, Topic
from tempos_broker.slowpath.sockets import DataSocket


class ForeignSockets:
    """By port, those of the topic that takes what is sent there."""

    def __init__(self, listen: Sequence[str], receive_buffer: int) -> None:
        self._listen = tuple(listen)
        self._receive_buffer = receive_buffer
        self._at: dict[int, list[DataSocket]] = {}
        self._topics: dict[int, Topic] = {}

    def open(self, topics: Iterable[Topic]) -> None:
        """Have the ports of these topics, all of them or none more; raises :class:`Unavailable`."""
        opened: list[int] = []
        try:
            for topic in topics:
                for port in topic.ports:
                    if port not in self._at:
                        self._at[port] = []
                        opened.append(port)
                        for address in self._listen:
                            one = DataSocket.bind(address, port, self._receive_buffer, topic=topic.id)
                            self._at[port].append(one)
        except BaseException:
            for port in opened:
                self._close(port)
            raise

    def put(self, topic: Topic) -> list[DataSocket]:
        """Serve a topic by these options, its ports are open; the sockets that it has no more, still open."""
        known = [port for port, at in self._at.items() if at and at[0].topic == topic.id]
        for port in topic.ports:
            for each in self._at.get(port, ()):
                each.topic = topic.id
        self._topics[topic.id] = topic
        return [each for port in known if port not in topic.ports for each in self._at.pop(port)]

    def drop(self, topic: int) -> list[DataSocket]:
        """Serve a topic no more; the sockets that it had, still open."""
        self._topics.pop(topic, None)
        mine = [port for port, at in self._at.items() if at and at[0].topic == topic]
        return [each for port in mine for each in self._at.pop(port)]

    def let_go(self, topics: Iterable[Topic]) -> None:
        """Close what was opened for topics and is not served."""
        for topic in topics:
            served = self._topics.get(topic.id)
            for port in topic.ports:
                if served is None or port not in served.ports:
                    self._close(port)

    def each(self) -> Iterator[tuple[Quality, DataSocket]]:
        """Every socket, with the class of its topic."""
        for at in self._at.values():
            for each in at:
                topic = self._topics.get(each.topic)
                yield (Quality.BQ if topic is None else topic.quality), each

    def close(self) -> None:
        """Safe to call twice."""
        for port in list(self._at):
            self._close(port)
        self._topics.clear()

    def _close(self, port: int) -> None:
        for each in self._at.pop(port, ()):
            each.close()
