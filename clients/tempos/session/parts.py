"""What a control session is made of: where its counts come from, requests on their way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tempos.errors import NoAnswer


class Counts(Protocol):
    """Where the counts of a heartbeat come from."""

    def report(self) -> Sequence[Mapping[str, Any]]:
        """What is to be told as of now: pages, at least one, each the fields of one request."""
        ...

    def acknowledge(self, told: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """The broker has this page, and gave that answer."""
        ...

    def tell_again(self) -> None:
        """Take nothing as acknowledged: what a broker had may have died with it, since it last answered."""
        ...


class NoCounts:
    """For a client that receives nothing."""

    def report(self) -> Sequence[Mapping[str, Any]]:
        return ({"received": ()},)

    def acknowledge(self, told: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        return

    def tell_again(self) -> None:
        return


@dataclass(slots=True)
class Pending:
    """A request on its way. ``tries`` counts the datagrams sent, ``due`` is when the next one is."""

    op: str
    fields: Mapping[str, Any]
    datagram: bytes
    started: float
    due: float
    tries: int = 1
    #: When the last of them was.
    sent: float = 0.0
    #: Whether its answer may be as long as any.
    roomy: bool = False
    #: Of a request to subscribe: to what, in which group, and whether it is asked for again.
    wanted: tuple[str, ...] = ()
    group: str | None = None
    again: bool = False
    #: From which version on memberships are to be listed; (): they are not.
    since: Sequence[int] = ()
    #: The page of counts in it.
    told: Mapping[str, Any] | None = None
    #: Of the signed datagrams sent so far; an answer carries one of them.
    nonces: list[bytes] = field(default_factory=list)
    #: What refusals were followed in how it is signed, by their codes.
    followed: set[str] = field(default_factory=set)
    #: How often it was sent at once, with a proof; with which, at which try; and when last, or it was begun.
    proved: int = 0
    given: dict[bytes, int] = field(default_factory=dict)
    went_on: float = 0.0
    #: What a reply said that was no answer, as a sentence: told if no other comes.
    last_word: str = ""
    #: Of a drain: until when it is asked again and again.
    until: float | None = None

    def follow(self, code: str) -> None:
        """From now on it is signed otherwise: what was sent before will be refused."""
        self.followed.add(code)
        self.nonces.clear()

    def no_answer(self, broker: str, now: float) -> NoAnswer:
        """The error of a request that was never answered by the broker there."""
        return NoAnswer(
            f"{self.op}: no answer from the broker at {broker} after {self.tries} tries in "
            f"{now - self.started:.1f} s: is it running there, and is UDP let through?" + self.last_word
        )
