"""Whose turn it is: what is received and sent between two looks at the channels, and in which order.

No clock and no socket: asks the core for deliveries and the channels for datagrams. Rules it keeps:

* Strict events that have arrived go first, all of them. Best effort is received and sent in steps of a chunk,
  and before each the strict channels are looked at: an SQ event waits for at most one of them.
* While SQ waits, best effort has no turn, but for its share: each copy sent of SQ earns it
  ``share / (100 - share)`` copies, which it may spend at once. It cannot save up more than a chunk, so that
  what it did not need yesterday does not disturb SQ today.
* SQ that finds its channel full holds best effort back, too: both may leave by the same link. What arrives
  meanwhile is received and waits in its queue.
* A turn ends after so many datagrams, whatever is left, so that control traffic is served. What it has drawn
  tickets for is sent by then, unless a channel is full: a route may be swapped between two turns, once a full
  channel has let go of what it holds (``holding``, ``emptied``).

Where one channel brings both classes, looking for SQ means to receive best effort as well. So a turn then
reads ahead, sends all of SQ, and a batch of best effort.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from tempos import Quality
from tempos_broker.slowpath.adapter import Channels
from tempos_broker.slowpath.core import Load, SlowPath

LoadT = TypeVar("LoadT", bound=Load)

_SQ, _BQ = Quality.SQ, Quality.BQ

#: Full batches, received and sent, of one turn: some 3 ms, the longest that control has to wait.
ROUNDS = 8
#: Datagrams of best effort that are received, or whose copies are made ready, at a time while any topic of
#: SQ has a member. Twice as many would give best effort half as much again, for a system call and a message
#: have their price whatever they carry, and SQ a p99 that is more than 1.5 times what it is alone.
CHUNK = 16
#: What is sent of best effort at a time, then: in copies, as :meth:`Channels.flush` counts them. One message
#: with a chunk for one member, or several smaller ones: 10 to 15 us, as long as receiving a chunk takes.
STEP = 20


class Turns(Generic[LoadT]):
    """Serves a core by its channels. ``share``: percent (0-50) of what is sent, best effort's by right."""

    def __init__(
        self,
        core: SlowPath[LoadT],
        channels: Channels[LoadT],
        batch: int,
        share: int = 0,
        chunk: int = CHUNK,
        step: int = STEP,
    ) -> None:
        """``batch``: datagrams in one system call. ``chunk``, ``step``: of best effort at a time."""
        self._core = core
        self._channels = channels
        self._batch = batch
        self._chunk = min(chunk, batch)
        self._step = step
        self._share = share
        # A piece of SQ, after which what it earned is at most a chunk.
        self._piece = max(1, self._chunk * (100 - share) // share) if share else None
        # In copies times (100 - share), which makes it whole numbers.
        self._credit = 0
        #: Whose channel was full in this turn. Where none was, nothing stands ready at its end.
        self._full: set[Quality] = set()
        #: How often a full channel of a class has let go of all that it held.
        self.emptied = {_SQ: 0, _BQ: 0}
        #: Copies of best effort that stand ready to go.
        self._ready = 0
        #: Whether SQ is received here; a worker may do that instead.
        self.strict_here = True
        #: Whether that worker has no CPU but ours: it waits for a step of ours as SQ does here, because what
        #: the kernel is doing for us it does to the end.
        self.strict_beside = False

    def turn(self) -> bool:
        """Receive and send for a bounded while.

        True: there is more to do, the next turn should come soon. False: nothing until the channels wake.
        """
        self._ready = 0
        if held := self.holding:
            self._full.clear()
            for quality in (_SQ, _BQ):
                self._flush(quality)
            for quality in held:
                self.emptied[quality] += quality not in self._full
        more = self._turn_apart() if self._channels.apart else self._turn_together()
        if self._ready and _BQ not in self._full:
            self._flush(_BQ)
        return more

    @property
    def holding(self) -> tuple[Quality, ...]:
        """Classes of which copies stand in front of a full channel, their tickets drawn."""
        return tuple(each for each in (_SQ, _BQ) if each in self._full) if self._full else ()

    @property
    def idle(self) -> bool:
        """Whether all that was received is sent."""
        # Asked of both: one that is blocked must not hide the other.
        left = [self._channels.flush(quality) for quality in (_SQ, _BQ)]
        return left == [0, 0] and not self._core.queued

    def _turn_apart(self) -> bool:
        core, channels, batch = self._core, self._channels, self._batch
        work = 2 * ROUNDS * batch
        careful = core.strict_routed and (self.strict_here or self.strict_beside)
        chunk = self._chunk if careful else batch
        received_last, more = False, True
        # What stands ready at the end goes step by step, too.
        while work > 0 or self._ready:
            received = channels.receive(_SQ, batch)
            work -= received + self._strict()
            if received >= batch and _SQ not in self._full:
                # There may be more of SQ; best effort had its share.
                if work > 0:
                    continue
                return True
            if self._full:
                # What is not read would wake the next turn at once, and the next, for nothing.
                channels.receive(_BQ, batch)
                return False
            if not received_last and not self._ready and core.waiting(_BQ) < chunk:
                arrived = channels.receive(_BQ, chunk)
                work -= arrived
                received_last, more = True, arrived >= chunk
                if arrived and careful:
                    # Receiving took as long as sending does.
                    continue
            work -= self._take_step() if careful else self._best_effort(None)
            received_last = False
            if self._full:
                continue
            if not more and not self._ready and not core.queued:
                return False
        return True

    def _turn_together(self) -> bool:
        core, channels, batch = self._core, self._channels, self._batch
        work = 2 * ROUNDS * batch
        while work > 0:
            for _ in range(core.read_ahead):
                received = channels.receive(_SQ, batch)
                work -= received
                if received < batch:
                    break
            work -= self._strict()
            if not self._full:
                work -= self._best_effort(batch if core.strict_routed else None)
            if self._full:
                return False
            if received < batch and not core.queued:
                return False
        return True

    def _strict(self) -> int:
        """All of SQ that waits, with best effort's share in between; how many copies were sent."""
        core, channels, total = self._core, self._channels, 0
        while _SQ not in self._full and (delivery := core.next_strict(self._batch, self._piece)) is not None:
            copies = delivery.count * len(delivery.route.groups)
            total += copies
            if channels.send(_SQ, delivery):
                self._flush(_SQ)
            if self._share:
                total += self._grant(copies)
        if total:
            self._flush(_SQ)
        return total

    def _grant(self, copies: int) -> int:
        """Best effort's share of so many copies of SQ; how many copies were sent."""
        earned, unit = copies * self._share, 100 - self._share
        # A chunk, and the part of a copy that is left after each.
        self._credit = min(self._credit + earned, max(self._chunk * unit, earned) + unit)
        allowed = self._credit // unit
        if allowed < 1 or _BQ in self._full:
            return 0
        # Short of what is allowed, the rest would be cut off by the limit above: of the share, for good.
        if self._channels.apart and self._ready + self._core.waiting(_BQ) < allowed:
            self._channels.receive(_BQ, min(self._batch, max(self._chunk, allowed)))
        if not self._ready and not self._core.waiting(_BQ):
            return 0
        # What SQ has gathered is not to wait for best effort.
        self._flush(_SQ)
        total = 0
        while total < allowed and not self._full:
            # What stands ready goes first. One datagram for many groups may be more than was allowed, and so
            # may a message: then the next comes later.
            sent = self._take_step() if self._ready else self._best_effort(allowed - total)
            if not sent:
                break
            total += sent
        self._credit -= total * unit
        return total

    def _take_step(self) -> int:
        """A step of best effort, of what stands ready or else of what waits; how many copies were sent."""
        if not self._ready:
            delivery = self._core.next_best_effort(self._chunk)
            if delivery is None:
                return 0
            self._channels.send(_BQ, delivery)
            self._ready = delivery.count * len(delivery.route.groups)
        before = self._ready
        self._flush(_BQ, self._step)
        return before - self._ready

    def _best_effort(self, most: int | None) -> int:
        """At most ``most`` copies of best effort, or a batch of datagrams; how many copies were sent."""
        core, channels, total, datagrams = self._core, self._channels, 0, 0
        while _BQ not in self._full and datagrams < self._batch and (most is None or total < most):
            delivery = core.next_best_effort(self._batch - datagrams, None if most is None else most - total)
            if delivery is None:
                break
            datagrams += delivery.count
            total += delivery.count * len(delivery.route.groups)
            if channels.send(_BQ, delivery):
                self._flush(_BQ)
        if total:
            self._flush(_BQ)
        return total

    def _flush(self, quality: Quality, most: int | None = None) -> None:
        """Send what was gathered, or a step of it, if the channel was not full; notes if it is now."""
        if quality in self._full:
            return
        left = self._channels.flush(quality, most)
        if left is None:
            self._full.add(quality)
        if quality is _BQ:
            # What a full channel holds goes whole, once there is room.
            self._ready = left or 0
