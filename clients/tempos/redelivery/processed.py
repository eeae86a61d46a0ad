"""What a member has processed of one topic: by epoch, and what the broker has not heard of it yet. No I/O.

Processed is what the consumer was given and asked for more after. What was told and not answered is told
again; everything, if the broker began another life and may have lost it.
"""

from __future__ import annotations

from tempos.control import Consumed
from tempos.redelivery.spans import Spans

#: Epochs that are remembered at most.
KEPT = 512


class Processed:
    """Of one topic."""

    def __init__(self, topic: int) -> None:
        self._topic = topic
        self._done: dict[int, Spans] = {}
        self._news: dict[int, Spans] = {}
        # What was processed last, one behind the other, and is in none of them yet.
        self._epoch = self._first = self._end = 0

    def add(self, epoch: int, sequence: int) -> None:
        """A delivery of an epoch, in full, is processed."""
        if epoch == self._epoch and sequence == self._end:
            self._end += 1
            return
        self._gather()
        self._epoch, self._first, self._end = epoch, sequence, sequence + 1

    def _gather(self) -> None:
        epoch, first, end = self._epoch, self._first, self._end
        if first == end:
            return
        self._first = end
        if self._done.setdefault(epoch, Spans()).add(first, end):
            self._news.setdefault(epoch, Spans()).add(first, end)
        while len(self._done) > KEPT:
            del self._done[min(self._done)]

    @property
    def has_news(self) -> bool:
        """Whether there is anything that the broker has not heard."""
        return bool(self._news) or self._first != self._end

    def take(self, most: int) -> list[Consumed]:
        """What to tell now, at most so many rows; :meth:`unheard` puts them back."""
        self._gather()
        rows: list[Consumed] = []
        for epoch in sorted(self._news):
            spans = self._news[epoch].all
            while spans and len(rows) < most:
                first, end = spans.pop(0)
                rows.append(Consumed(self._topic, epoch, first, end - first))
            if not spans:
                del self._news[epoch]
        return rows

    def unheard(self, row: Consumed) -> None:
        """The broker may not have heard this."""
        if row.epoch in self._done:
            self._news.setdefault(row.epoch, Spans()).add(row.first, row.first + row.number)

    def forget(self, oldest: int) -> None:
        """The broker wants to hear nothing of epochs before this one."""
        self._gather()
        for epoch in [epoch for epoch in self._done if epoch < oldest]:
            del self._done[epoch]
            self._news.pop(epoch, None)

    def tell_again(self) -> None:
        """The broker may have lost what it heard."""
        self._gather()
        self._news = {epoch: Spans(spans.all) for epoch, spans in self._done.items()}
