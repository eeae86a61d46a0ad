"""What a kind of endpoint is: the small protocol between a trigger and where its signals come from.

A package brings a kind by naming it under ``[project.entry-points."tempos.triggers"]``: what is loaded there
is called without arguments, once in a daemon, and gives a :class:`Kind`. ``sources/udp.py`` is the smallest
one. Rules for kinds: what can be known at once to be impossible is raised by :meth:`Source.open`; whatever
may come and go later is told in :meth:`Source.status` and tried again; nothing that comes from outside
raises; each signal ends in exactly one call of the :class:`Sink`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tempos import Reply
from tempos_daemon.schema import Faults, Keys, Table
from tempos_trigger.model import EndpointSpec

GROUP = "tempos.triggers"


class Sink(Protocol):
    """Where a source puts its signals. Each call is one signal, counted by the endpoint."""

    @property
    def why_not(self) -> tuple[str, str] | None:
        """Why nothing can be published just now: the reason of a drop, and a sentence. None: it can."""
        ...

    async def ready(self, within: float, topic: str = "") -> tuple[str, str] | None:
        """:attr:`why_not`; where that may be otherwise in a moment, as while a topic is made anew, it waits.

        At most so many seconds. ``topic``: where the endpoint's has ``+``, which one; so in what follows.
        """
        ...

    @property
    def room(self) -> int:
        """How many signals more may wait."""
        ...

    def put(self, body: bytes, settled: Callable[[str], None] | None = None) -> str:
        """An event, as soon as the broker is there: "" if it waits, else why it was dropped.

        ``settled`` is called once with what became of a signal that waited: ``published`` or a reason.
        """
        ...

    async def deliver(self, body: bytes, topic: str = "") -> str:
        """An event now, or never: ``published``, or why it was dropped."""
        ...

    async def ask(self, body: bytes, deadline: float, topic: str = "") -> Reply:
        """An event whose answer is wanted. Raises :class:`tempos.TemposError` where there is none."""
        ...

    def refuse(self, reason: str, count: int = 1) -> str:
        """A signal that does not become an event, or so many; gives the reason."""
        ...

    def when_room(self, call: Callable[[], None]) -> None:
        """Call once when a signal has left the buffer."""
        ...

    def recall(self) -> Any:
        """What the source of this endpoint remembered last; None: nothing."""
        ...

    def remember(self, document: Any) -> None:
        """Remember a document of JSON, through restarts; raises :class:`OSError`. Not for the event loop."""
        ...


class Source(Protocol):
    """Where the signals of one endpoint come from. The calls come in the order in which they stand here."""

    async def open(self) -> None:
        """Have what can be had or refused at once, as a port; raises :class:`OSError` or TemposError.

        Nothing is taken in yet: if another endpoint cannot be opened, :meth:`close` follows.
        """
        ...

    async def start(self) -> None:
        """Take signals in from now on; cannot fail."""
        ...

    def takes(self, spec: EndpointSpec) -> bool:
        """Whether it can go on with these options without a break; they may be those that it has.

        Not if a file that it has read is another one by now.
        """
        ...

    def take(self, spec: EndpointSpec) -> None:
        """Go on with these options, which it takes."""
        ...

    def status(self) -> dict[str, Any]:
        """For people: ``state`` (``up`` or another word), ``why`` not, and whatever helps."""
        ...

    async def close(self) -> None:
        """Take nothing more in; what was taken in has reached the sink."""
        ...


class Kind(Protocol):
    """One kind of endpoint. ``keys``: what its table may hold beside what all have."""

    keys: Keys

    def check(self, table: Table, faults: Faults) -> None:
        """Add the faults that span several keys."""
        ...

    def claims(self, spec: EndpointSpec) -> Sequence[str]:
        """What it must have for itself alone, in words: no two endpoints may claim the same."""
        ...

    # A kind may have ``levels(spec)`` as well: how many levels of the topic's name a signal brings, which
    # take the places of the topic's ``+``; and ``shares(spec)``: what it has together with other endpoints
    # of the kind, in words, and how it wants it, of which all must want the same.

    def make(self, spec: EndpointSpec, sink: Sink) -> Source:
        """The source of an endpoint; does nothing yet."""
        ...
