"""What one member can tell about its own losses, from what the broker stamped on each datagram.

The broker counts, per epoch of the route and from 0, what it hands to this member; so a hole in the
delivery sequence is a datagram that left the broker and did not arrive. Rules:

* an epoch that begins, begins at 0: a first sequence of 5 means 5 missed;
* late datagrams, also of an epoch that has passed, take back what was counted as missed, so what
  :meth:`GapTracker.see` returns sums up to what is missing, but for what came again;
* what was counted once is never counted again, so received + missed is the number of stamps passed;
* losses at the very end of an epoch cannot be seen here: only the broker's ledger knows them;
* a datagram carries the low 8 bits of its epoch. Which epoch that is follows from the full number that the
  broker told last, so a member that is sent nothing for however many epochs mistakes none for another;
* what the broker has acknowledged is not told again, unless it began another life and may have lost it.

Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

from bisect import bisect_right

from tempos.control import Received

#: How many epochs back a datagram may still be on its way. Everything else is taken as newer.
LATE_EPOCHS = 16
#: A broker that is this many epochs behind what a datagram made us believe has never been there.
NEVER_AHEAD = 64
#: Epochs whose final counts the broker has not acknowledged are kept this far back.
KEPT_EPOCHS = 128
#: Holes remembered per epoch, so that a flood of losses takes bounded memory. What comes later than
#: that counts as a duplicate.
KEPT_HOLES = 1024

#: What :meth:`GapTracker.see` says of a datagram that was counted as missed before, and of one that
#: has come before.
LATE, AGAIN = -1, -2

_U32 = 0xFFFFFFFF
_HALF = 0x80000000


class _Epoch:
    """The account of one epoch. ``received + missing`` is the number of sequences passed so far."""

    __slots__ = ("_base", "acknowledged", "byte", "expected", "holes", "missing", "number", "received")

    def __init__(self, number: int) -> None:
        self.number = number
        self.byte = number & 0xFF
        self.expected = 0
        self.received = 0
        self.missing = 0
        self.acknowledged = -1
        self._base = 0
        # [start, end) of what is missing, ascending, counted without wrapping.
        self.holes: list[tuple[int, int]] = []

    @property
    def told(self) -> int:
        """What the broker in charge is to count."""
        return self.received - self._base

    def new_broker(self) -> None:
        """What has come so far another broker counts, not the one that answers now."""
        self._base, self.acknowledged = self.received, 0

    def skip(self, count: int) -> None:
        position = self.received + self.missing
        self.holes.append((position, position + count))
        if len(self.holes) > KEPT_HOLES:
            del self.holes[0]
        self.missing += count

    def fill(self, back: int) -> bool:
        """Take the sequence ``back`` before the expected one out of its hole; False if it is in none."""
        position = self.received + self.missing - back
        index = bisect_right(self.holes, position, key=lambda hole: hole[0]) - 1
        if index < 0:
            return False
        start, end = self.holes[index]
        if position >= end:
            return False
        rest = [(start, position), (position + 1, end)]
        self.holes[index : index + 1] = [hole for hole in rest if hole[0] < hole[1]]
        self.missing -= 1
        self.received += 1
        return True


class Tally:
    """A count of one member in one group that no epoch divides.

    A broker that has lost its memory begins to count anew; so the count at which it said that it does not
    know this member is what it will not count any more.
    """

    __slots__ = ("_acknowledged", "_base", "_mark", "datagrams")

    def __init__(self) -> None:
        #: Datagrams since the start.
        self.datagrams = 0
        self._mark = self._base = self._acknowledged = 0

    @property
    def told(self) -> int:
        """What the broker in charge is to count."""
        return self.datagrams - self._base

    @property
    def is_news(self) -> bool:
        """Whether the broker has not acknowledged that much."""
        return self.told != self._acknowledged

    def forgotten(self) -> None:
        """The broker does not know this member (any more)."""
        self._mark = self.datagrams

    def new_broker(self) -> None:
        """The broker is another instance now, and counts from when it said that it knows nothing."""
        self._base, self._acknowledged = self._mark, 0

    def acknowledge(self, datagrams: int) -> None:
        """The broker has that much."""
        self._acknowledged = max(self._acknowledged, datagrams)

    def tell_again(self) -> None:
        """The broker may have lost what it has acknowledged."""
        self._acknowledged = 0


class GapTracker:
    """The delivery account of one member in one group of one topic."""

    __slots__ = (
        "_current",
        "_doubtful",
        "_epochs",
        "_past_missed",
        "_past_received",
        "_told",
        "duplicates",
        "late",
        "unstamped",
    )

    def __init__(self) -> None:
        self._epochs: dict[int, _Epoch] = {}
        self._current: _Epoch | None = None
        self._doubtful: _Epoch | None = None
        # The epoch that the broker said to be in force; None: nobody has said.
        self._told: int | None = None
        self._past_received = 0
        self._past_missed = 0
        #: Datagrams that came more than once, or too late to tell.
        self.duplicates = 0
        #: Datagrams that came after one the broker sent later.
        self.late = 0
        #: Datagrams straight from a publisher: no broker stamped them, so nothing is known of them.
        self.unstamped = 0

    @property
    def received(self) -> int:
        """Datagrams received, each counted once."""
        return self._past_received + sum(epoch.received for epoch in self._epochs.values())

    @property
    def missed(self) -> int:
        """Datagrams the broker sent to this member that have not arrived so far."""
        return self._past_missed + sum(epoch.missing for epoch in self._epochs.values())

    @property
    def epoch(self) -> int | None:
        """The latest epoch, in full; None before there is any."""
        return None if self._current is None else self._current.number

    def see(self, epoch: int, sequence: int) -> int:
        """Account one datagram with ``epoch`` (u8) and delivery ``sequence`` (u32) as on the wire.

        Returns how many datagrams are missing directly before it; :data:`LATE` for one that takes back what
        was counted as missing, :data:`AGAIN` for one that has come before.
        """
        current = self._current
        if current is not None and epoch == current.byte and sequence == current.expected:
            current.expected = (sequence + 1) & _U32
            current.received += 1
            return 0
        return self._see_unexpected(epoch, sequence)

    def see_run(self, epoch: int, sequence: int, count: int) -> bool:
        """Account so many datagrams from ``sequence`` on, if that is expected; none of them, if it is not."""
        current = self._current
        if current is None or epoch != current.byte or sequence != current.expected:
            return False
        current.expected = (sequence + count) & _U32
        current.received += count
        return True

    def number(self, byte: int) -> int:
        """The full number of the epoch of a datagram that was accounted just now."""
        return byte if self._current is None else _full(byte, self._current.number)

    def sent(self, number: int, count: int) -> tuple[int, int] | None:
        """The broker says that it sent so many datagrams of the epoch ``number``: what is missing in the end.

        From which sequence on, and how many; None: nothing, or nobody can tell.
        """
        current = self._current
        if current is None or number <= current.number - KEPT_EPOCHS:
            return None
        if number > current.number:
            epoch = self._begin(number)
        else:
            epoch = self._epochs.get(number) or self._epochs.setdefault(number, _Epoch(number))
        first = epoch.expected
        ahead = (count - first) & _U32
        if not ahead or ahead >= _HALF:
            return None
        epoch.skip(ahead)
        epoch.expected = count & _U32
        return first, ahead

    def in_force(self, epoch: int) -> None:
        """The broker says that this member is in the route of ``epoch``, in full.

        From now on 0 received of it is a report, too, and an earlier one is over.
        """
        self._told = epoch
        current = self._current
        if self._doubtful is not None:
            return
        if current is not None and current.number - epoch > NEVER_AHEAD:
            # What came before anybody told, or later than can be, was taken as of an epoch to come.
            for number in [number for number in self._epochs if number > epoch]:
                wrong = self._epochs.pop(number)
                if wrong.byte == epoch & 0xFF and epoch not in self._epochs:
                    wrong.number, self._epochs[epoch] = epoch, wrong
                else:
                    self._retire(wrong)
            current = self._current = self._epochs.get(epoch)
        if current is None or current.number < epoch:
            self._begin(epoch)

    def new_broker(self) -> None:
        """The broker is another instance now: it may go on with the routes it found, or begin anew.

        Which of the two shows with the next datagram; until then nothing is reported.
        """
        self._told = None
        if self._current is not None:
            self._doubtful, self._current = self._current, None

    def report(self, topic: int, group: str, *, again: bool = False) -> list[Received]:
        """What a heartbeat tells: epochs whose count is news to the broker; ``again``: the latest anyway."""
        if self._current is None:
            return []
        return [
            Received(topic, group, epoch.number, epoch.told)
            for epoch in self._epochs.values()
            if epoch.told != epoch.acknowledged or (again and epoch is self._current)
        ]

    def acknowledge(self, row: Received) -> None:
        """The broker has answered a heartbeat with this row in it."""
        epoch = self._epochs.get(row.epoch)
        if epoch is not None and row.datagrams <= epoch.told:
            epoch.acknowledged = max(epoch.acknowledged, row.datagrams)

    def tell_again(self) -> None:
        """The broker may have lost what it has acknowledged."""
        for epoch in self._epochs.values():
            epoch.acknowledged = -1

    def _see_unexpected(self, byte: int, sequence: int) -> int:
        if self._doubtful is not None:
            self._settle(byte, sequence)
        current = self._current
        if current is None:
            # Where nobody tells: any number of which this is the end, with room for late ones before it.
            number = _full(byte, self._told) if self._told is not None else 0x100 + byte
        else:
            number = _full(byte, current.number)
        if current is None or number > current.number:
            epoch = self._begin(number)
        else:
            epoch = self._epochs.get(number) or self._epochs.setdefault(number, _Epoch(number))
        return self._account(epoch, sequence)

    def _account(self, epoch: _Epoch, sequence: int) -> int:
        ahead = (sequence - epoch.expected) & _U32
        if ahead < _HALF:
            if ahead:
                epoch.skip(ahead)
            epoch.received += 1
            epoch.expected = (sequence + 1) & _U32
            return ahead
        if epoch.fill(_U32 + 1 - ahead):
            self.late += 1
            return LATE
        if not sequence and not epoch.byte and (self._told is None or not epoch.number):
            self.unstamped += 1
            return 0
        self.duplicates += 1
        return AGAIN

    def _begin(self, number: int) -> _Epoch:
        epoch = self._current = self._epochs.setdefault(number, _Epoch(number))
        for old in list(self._epochs.values()):
            age = number - old.number
            told = old.told == old.acknowledged
            if age >= KEPT_EPOCHS or (age > LATE_EPOCHS and told):
                self._retire(self._epochs.pop(old.number))
        return epoch

    def _settle(self, byte: int, sequence: int) -> None:
        """Decide, on the first datagram of another broker instance, if it goes on where the last one was."""
        doubtful, self._doubtful = self._doubtful, None
        self._current = doubtful
        assert doubtful is not None
        number = _full(byte, doubtful.number if self._told is None else self._told)
        if number == doubtful.number:
            goes_on = (sequence - doubtful.expected) & _U32 < _HALF
        else:
            goes_on = number > doubtful.number
        for epoch in self._epochs.values():
            if goes_on:
                epoch.new_broker()
            else:
                self._retire(epoch)
        if not goes_on:
            self._epochs.clear()
            self._current = None

    def _retire(self, epoch: _Epoch) -> None:
        self._past_received += epoch.received
        self._past_missed += epoch.missing


def _full(byte: int, near: int) -> int:
    """The epoch that ends with ``byte``, if ``near`` is or was in force."""
    back = (near - byte) & 0xFF
    return near - back if back <= min(LATE_EPOCHS, near) else near + 0x100 - back
