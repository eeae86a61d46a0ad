"""The facts with what the kernel does not say: which interfaces take redirected frames, by trying them.

Rules: unknown is not yes. Where the kernel does not say (before Linux 6.3), an interface that events should
leave by is given a frame, once; what took it is believed until it changes. Whatever anybody said, an
interface that refuses frames that are on their way takes none from then on, until it has changed or some
seconds have passed and it takes one: a veth's peer whose GRO was switched on says nothing. Blocking, in the
network namespace of the calling thread; one call at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from tempos_fastpath.network.facts import Destination, Facts, Interface
from tempos_fastpath.network.kernel import Kernel
from tempos_fastpath.network.reading import read_facts, read_more
from tempos_fastpath.network.trial import Verdict
from tempos_fastpath.network.vlans import card_below

#: Seconds from one trial to the next of an interface that takes no frames; and the most they become for one
#: that takes those of trials, but not the events.
AGAIN, LONGEST = 4.0, 64.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Refused:
    """An interface that refused frames: the error, what it was like, and until when it is left alone."""

    error: str
    like: Interface | None
    wait: float
    until: float


@dataclass(frozen=True, slots=True)
class _Tried:
    """An interface that was tried: what it was like, what came of it, and when."""

    like: Interface
    verdict: Verdict
    when: float


class Survey:
    """Reads the facts of one network namespace, and keeps in mind what was tried and refused there."""

    def __init__(self, kernel: Kernel, clock: Callable[[], float] = time.monotonic) -> None:
        self._kernel = kernel
        self._clock = clock
        self._seen: dict[int, Interface] = {}
        self._tried: dict[int, _Tried] = {}
        self._refused: dict[int, _Refused] = {}
        #: Those of the latter that took frames again, for when they do not.
        self._forgiven: dict[int, _Refused] = {}
        self._complained: dict[int, str] = {}

    def read(
        self, destinations: Iterable[Destination], native: bool, refused: Mapping[int, str], port: int = 0
    ) -> Facts:
        """A snapshot, with the ways to these addresses; raises NetworkUnreadable.

        ``native``: frames may be redirected from a driver, which the interfaces they leave by must support.
        ``refused``: the indices of interfaces that did not take redirected frames since, and the error.
        ``port``: the UDP port that events leave from.
        """
        facts = read_facts(destinations, self._kernel.features, port, self._kernel.bound)
        return self.complete(facts, native=native, refused=refused)

    def extend(self, facts: Facts, destinations: Iterable[Destination], port: int = 0) -> Facts | None:
        """The facts at hand with the ways to more addresses, where they leave by interfaces already in use.

        None: one does not, so that a whole snapshot is needed. Raises as :meth:`read`.
        """
        more = read_more(facts, destinations, port)
        used = {way.ifindex for way in facts.ways.values()}
        new = {way.ifindex for way in more.ways.values() if not way.obstacle}
        return more if new <= used else None

    def complete(self, facts: Facts, *, native: bool, refused: Mapping[int, str]) -> Facts:
        """A snapshot with what was found out of the interfaces that its ways leave by."""
        now = self._clock()
        for ifindex, error in refused.items():
            interface = facts.interfaces.get(ifindex)
            # That one is down, or was in between, is no reason to doubt it once it is up.
            seen = self._seen.get(ifindex, interface)
            if interface is not None and interface.up and seen is not None and seen.flaps == interface.flaps:
                self._doubt(ifindex, error, now)
        self._forget_all_but(facts)
        if not native:
            return facts
        interfaces = dict(facts.interfaces)
        for index in _leaving(facts):
            interface = facts.interfaces[index]
            if interface.ethernet and interface.up and interface.mac is not None:
                verdict = self._judge(interface, now)
                self._complain(interface, verdict)
                interfaces[index] = replace(
                    interface, takes_redirects=verdict.takes, redirects_why=verdict.why
                )
                self._seen[index] = interface
        return replace(facts, interfaces=interfaces)

    def _doubt(self, ifindex: int, error: str, now: float) -> None:
        before = self._refused.get(ifindex) or self._forgiven.pop(ifindex, None)
        wait = AGAIN
        if before is not None and now < before.until + LONGEST:
            wait = min(2 * before.wait, LONGEST) if now >= before.until else before.wait
        self._refused[ifindex] = _Refused(error, self._seen.get(ifindex), wait, now + wait)

    def _judge(self, interface: Interface, now: float) -> Verdict:
        index, told = interface.index, interface.takes_redirects
        if told is False:
            # Nobody sends frames there, so what was refused before says nothing any more.
            self._refused.pop(index, None)
            return Verdict(False)
        refused = self._refused.get(index)
        if refused is None:
            return Verdict(True) if told else self._trial(interface, now)
        changed = refused.like != interface
        if not changed and now < refused.until:
            return Verdict(False, f"it refused frames ({refused.error})")
        verdict = self._trial(interface, now)
        if verdict.takes or (verdict.takes is None and changed):
            self._forgiven[index] = self._refused.pop(index)
            return verdict if verdict.takes else Verdict(told, verdict.why)
        return Verdict(False, verdict.why)

    def _trial(self, interface: Interface, now: float) -> Verdict:
        """What comes of giving it a frame, or came of it, if that still counts."""
        known = self._tried.get(interface.index)
        if known is not None and known.like == interface:
            taken = known.verdict.takes and interface.index not in self._refused
            if taken or (not known.verdict.takes and now - known.when < AGAIN):
                return known.verdict
        verdict = self._kernel.try_redirect(interface)
        self._tried[interface.index] = _Tried(interface, verdict, now)
        return verdict

    def _complain(self, interface: Interface, verdict: Verdict) -> None:
        """Say once that an interface takes no frames, where the kernel did not, and once that it does."""
        name, index = interface.name, interface.index
        if verdict.takes:
            if self._complained.pop(index, None) is not None:
                _log.info("%s takes redirected frames again", name)
        elif verdict.why and self._complained.get(index) != verdict.why:
            self._complained[index] = verdict.why
            _log.warning("%s takes no redirected frames (%s): what leaves by it goes by the slow path until "
                         "it does", name, verdict.why)  # fmt: skip

    def _forget_all_but(self, facts: Facts) -> None:
        for kept in (self._seen, self._tried, self._refused, self._forgiven, self._complained):
            for index in kept.keys() - facts.interfaces.keys():
                del kept[index]


def _leaving(facts: Facts) -> set[int]:
    """The interfaces that events leave by, and what VLAN devices among them stand on."""
    by = {way.ifindex for way in facts.ways.values()} & facts.interfaces.keys()
    cards = (card_below(facts.interfaces[index], facts) for index in by)
    return by | {each.index for each in cards if each is not None}
