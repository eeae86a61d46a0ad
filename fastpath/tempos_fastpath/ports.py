"""The map `ports`: which foreign topic takes what is sent to a port; with the rows, where topics are found.

Written through our own memory, as the rows are. A port whose topic goes is taken out before the topic's row
can be another's; a program that read it earlier finds in the route whose that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tempos import LocalError, Topic
from tempos_bpf.maps import SharedArray
from tempos_fastpath.rows import KernelRows


class KernelPorts:
    """By port, the id of the topic that takes what is sent there; 0: none."""

    def __init__(self, array: SharedArray) -> None:
        self._array = array
        self._topic: memoryview | None = memoryview(array.memory).cast("H")
        #: What stands there, an earlier broker's words included.
        self._said = {port: topic for port, topic in enumerate(self._topic.tolist()) if topic}

    def configure(self, topics: Sequence[Topic]) -> None:
        """Have the ports of these topics, and no others."""
        wanted = {port: topic.id for topic in topics for port in topic.ports}
        self._change(self._said, wanted)

    def put(self, topic: Topic) -> None:
        """A topic takes what is sent to its ports, and to no others; all other topics as they are."""
        self._change(self._of(topic.id), dict.fromkeys(topic.ports, topic.id))

    def drop(self, topic: int) -> None:
        """A topic takes nothing any more."""
        self._change(self._of(topic), {})

    def close(self) -> None:
        """Safe to call twice."""
        if self._topic is not None:
            self._topic.release()
            self._topic = None
        self._array.close()

    def _of(self, topic: int) -> dict[int, int]:
        return {port: of for port, of in self._said.items() if of == topic}

    def _change(self, was: Mapping[int, int], wanted: Mapping[int, int]) -> None:
        if self._topic is None:
            raise LocalError("the table of ports is closed")
        for port in was.keys() - wanted.keys():
            self._topic[port] = 0
            del self._said[port]
        for port, topic in wanted.items():
            if self._said.get(port) != topic:
                self._topic[port] = self._said[port] = topic


class Places:
    """Both tables, as a fast path goes by them."""

    def __init__(self, rows: SharedArray, ports: SharedArray) -> None:
        self._rows = KernelRows(rows)
        self._ports = KernelPorts(ports)

    def configure(self, topics: Sequence[Topic], row_of: Mapping[int, int]) -> None:
        """Find these topics, and no others."""
        self._rows.configure({topic.id: row_of[topic.id] for topic in topics})
        self._ports.configure(topics)

    def put(self, topic: Topic, row: int) -> None:
        """Find a topic in this row; all others as they are."""
        self._rows.put(topic.id, row)
        self._ports.put(topic)

    def drop(self, topic: int) -> None:
        """Find a topic no more."""
        self._ports.drop(topic)
        self._rows.drop(topic)

    def close(self) -> None:
        """Safe to call twice."""
        self._rows.close()
        self._ports.close()
