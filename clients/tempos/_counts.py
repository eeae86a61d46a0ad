"""What a session tells the broker of what arrived: where it comes from, and a stand-in for nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


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
