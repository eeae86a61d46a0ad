"""Whose turn it is: what is received and sent between two looks at the channels, and in which order.

No clock and no socket: asks the core for deliveries and the channels for datagrams. Rules it keeps:

* Strict events that have arrived go first, all of them. Best effort is sent in chunks, and before each the
  strict channels are looked at: an SQ event waits for at most one chunk, and for what best effort was being
  received just then.
* While SQ waits, best effort has no turn, but for its share: each copy sent of SQ earns it
  ``share / (100 - share)`` copies, which it may spend at once. It cannot save up more than a chunk, so that
  what it did not need yesterday does not disturb SQ today.
* SQ that finds its channel full holds best effort back, too: both may leave by the same link.
* A turn ends after so many datagrams, whatever is left, so that control traffic is served.

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
#: Copies of best effort between two looks for SQ, while any topic of SQ has a member.
CHUNK = 16


class Turns(Generic[LoadT]):
    """Serves a core by its channels. ``share``: percent (0-50) of what is sent, best effort's by right."""

    def __init__(
        self, core: SlowPath[LoadT], channels: Channels[LoadT], batch: int, share: int = 0, chunk: int = CHUNK
    ) -> None:
        """``batch``: datagrams in one system call. ``chunk``: copies of best effort at a time."""
        self._core = core
        self._channels = channels
        self._batch = batch
        self._chunk = min(chunk, batch)
        self._share = share
        # A piece of SQ, after which what it earned is at most a chunk.
        self._piece = max(1, self._chunk * (100 - share) // share) if share else None
        # In copies times (100 - share), which makes it whole numbers.
        self._credit = 0
        self._open = {_SQ: True, _BQ: True}

    def turn(self) -> bool:
        """Receive and send for a bounded while.

        True: there is more to do, the next turn should come soon. False: nothing until the channels wake.
        """
        channels = self._channels
        self._open = {quality: channels.flush(quality) for quality in (_SQ, _BQ)}
        return self._turn_apart() if channels.apart else self._turn_together()

    @property
    def idle(self) -> bool:
        """Whether all that was received is sent."""
        # Asked of both: one that is blocked must not hide the other.
        flushed = [self._channels.flush(quality) for quality in (_SQ, _BQ)]
        return all(flushed) and not self._core.queued

    def _turn_apart(self) -> bool:
        core, channels, batch = self._core, self._channels, self._batch
        work = 2 * ROUNDS * batch
        while work > 0:
            received = channels.receive(_SQ, batch)
            work -= received + self._strict()
            if received >= batch and self._open[_SQ]:
                # There may be more of SQ; best effort had its share.
                continue
            arrived = channels.receive(_BQ, batch) if core.waiting(_BQ) < batch else 0
            sent = 0
            if self._open[_SQ] and self._open[_BQ]:
                sent = self._best_effort(self._chunk if core.strict_routed else None)
            work -= arrived + sent
            if not all(self._open.values()):
                return False
            if arrived < batch and not core.queued:
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
            if self._open[_SQ] and self._open[_BQ]:
                work -= self._best_effort(batch if core.strict_routed else None)
            if not all(self._open.values()):
                return False
            if received < batch and not core.queued:
                return False
        return True

    def _strict(self) -> int:
        """All of SQ that waits, with best effort's share in between; how many copies were sent."""
        core, channels, total = self._core, self._channels, 0
        while self._open[_SQ] and (delivery := core.next_strict(self._batch, self._piece)) is not None:
            copies = delivery.count * len(delivery.route.groups)
            total += copies
            self._open[_SQ] = channels.send(_SQ, delivery)
            if self._share:
                total += self._grant(copies)
        if self._open[_SQ]:
            self._open[_SQ] = channels.flush(_SQ)
        return total

    def _grant(self, copies: int) -> int:
        """Best effort's share of so many copies of SQ; how many copies were sent."""
        earned, unit = copies * self._share, 100 - self._share
        self._credit = min(self._credit + earned, max(self._chunk * unit, earned))
        allowed = self._credit // unit
        if allowed < 1 or not self._open[_BQ]:
            return 0
        if self._channels.apart and not self._core.waiting(_BQ):
            self._channels.receive(_BQ, self._batch)
        if not self._core.waiting(_BQ):
            return 0
        if self._open[_SQ]:
            # What SQ has gathered is not to wait for best effort.
            self._open[_SQ] = self._channels.flush(_SQ)
        sent = self._best_effort(allowed)
        # One datagram for many groups may be more than was allowed: then the next comes later.
        self._credit -= sent * unit
        return sent

    def _best_effort(self, most: int | None) -> int:
        """At most ``most`` copies of best effort, or a batch of datagrams; how many copies were sent."""
        core, channels, total, datagrams = self._core, self._channels, 0, 0
        while self._open[_BQ] and datagrams < self._batch and (most is None or total < most):
            delivery = core.next_best_effort(self._batch - datagrams, None if most is None else most - total)
            if delivery is None:
                break
            datagrams += delivery.count
            total += delivery.count * len(delivery.route.groups)
            self._open[_BQ] = channels.send(_BQ, delivery)
        if self._open[_BQ]:
            self._open[_BQ] = channels.flush(_BQ)
        return total
