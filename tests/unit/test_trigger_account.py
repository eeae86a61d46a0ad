"""The account of an endpoint: bounded, never older than allowed, and adding up whatever happens."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tempos_trigger.account import PUBLISHED, QUEUE_FULL, STOPPED, TOO_OLD, Account, Signal


def test_what_waits_too_long_is_dropped_and_told() -> None:
    account = Account(most=3, max_age=5.0)
    told: list[tuple[bytes, str]] = []

    def signal(body: bytes, at: float) -> Signal:
        return Signal(body, at, lambda verdict: told.append((body, verdict)))

    assert [account.offer(signal(body, at), at) for at, body in enumerate([b"a", b"b", b"c"])] == ["", "", ""]
    assert account.offer(signal(b"d", 3.0), 3.0) == QUEUE_FULL
    assert account.expires_at() == 5.0
    taken = account.take(5.5)
    # The first one is older than five seconds, the second is not yet.
    assert taken is not None
    assert (taken.body, told) == (b"b", [(b"a", TOO_OLD)])
    # Which the broker does not take: it is the first again, and as old as it was.
    account.give_back(taken)
    assert account.expires_at() == 6.0
    assert account.offer(signal(b"f", 5.5), 5.5) == ""
    # Room is made by what is to go anyway.
    assert account.offer(signal(b"e", 6.5), 6.5) == ""
    account.give_up(STOPPED)
    assert told == [(b"a", TOO_OLD), (b"b", TOO_OLD), *((body, STOPPED) for body in (b"c", b"f", b"e"))]
    assert (account.received, account.waiting) == (6, 0)
    assert account.dropped == {QUEUE_FULL: 1, TOO_OLD: 2, STOPPED: 3}
    assert account.balanced


class Endpoints(RuleBasedStateMachine):
    """Signals that come, wait, go out, come back, while the clock is in the test's hand."""

    @initialize(most=st.integers(1, 4), max_age=st.sampled_from([0.0, 1.0, 3.0]))
    def begin(self, most: int, max_age: float) -> None:
        self.account = Account(most, max_age)
        self.now = 0.0
        self.came = 0
        self.told: Counter[str] = Counter()
        self.order: list[int] = []
        self.hand: Signal | None = None
        self.direct = 0

    @rule(seconds=st.sampled_from([0.25, 1.0, 2.5]))
    def clock(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def signal(self) -> None:
        number = self.came
        self.came += 1

        def settled(verdict: str) -> None:
            self.told[verdict] += 1
            if verdict == PUBLISHED:
                self.order.append(number)

        if reason := self.account.offer(Signal(b"", self.now, settled), self.now):
            self.told[reason] += 1

    @rule(reason=st.sampled_from(["malformed", "no_broker"]))
    def refused(self, reason: str) -> None:
        self.came += 1
        self.told[self.account.refuse(reason)] += 1

    @rule()
    def directly(self) -> None:
        self.came += 1
        if reason := self.account.begin():
            self.told[reason] += 1
        else:
            self.direct += 1

    @rule(verdict=st.sampled_from([PUBLISHED, "no_broker"]))
    def directly_done(self, verdict: str) -> None:
        if self.direct:
            self.direct -= 1
            self.account.settle(None, verdict)
            self.told[verdict] += 1

    @rule()
    def take(self) -> None:
        if self.hand is None:
            self.hand = self.account.take(self.now)
            assert self.hand is None or self.now - self.hand.at <= self.account.max_age

    @rule(back=st.booleans())
    def outcome(self, back: bool) -> None:
        if self.hand is not None:
            hand, self.hand = self.hand, None
            if back:
                self.account.give_back(hand)
            else:
                self.account.settle(hand, PUBLISHED)

    @rule()
    def stop(self) -> None:
        self.account.give_up(STOPPED)

    @invariant()
    def adds_up(self) -> None:
        if not hasattr(self, "account"):
            return
        account = self.account
        assert account.balanced
        assert account.received == self.came
        assert account.published == self.told[PUBLISHED]
        assert +account.dropped == +Counter({k: n for k, n in self.told.items() if k != PUBLISHED})
        assert account.waiting <= account.most
        assert self.order == sorted(self.order)


TestEndpoints = Endpoints.TestCase
