"""Every error tempos raises on purpose, under one root and split by whose fault it is.

Each message says what happened, where, and what to do; the parts a program may want to look at are
attributes. Foreign input never raises out of the broker's loop: there it becomes a counted reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: As long as a reason in one line may be: what is longer belongs into a log.
_LINE = 800


def one_line(error: BaseException | str) -> str:
    """An error, or what a program said, for a table, a log or a status: one line, and no long one."""
    text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if not text and isinstance(error, BaseException):
        text = repr(error)
    return text if len(text) <= _LINE else f"{text[: _LINE - 4].rstrip()} ..."


class TemposError(Exception):
    """Root of all errors of this project."""


class LocalError(TemposError):
    """The caller asked for something that cannot be done as asked."""


class NoWay(LocalError):
    """There is no way to the broker at this moment: no address of it, or of this machine, no route.

    Clients go on looking for one, so what is tried a little later may well succeed.
    """


class RemoteError(TemposError):
    """The other side sent something that cannot be understood, or refused."""


class WireError(RemoteError):
    """A datagram is not what its topic's framing says.

    ``reason`` is the :class:`tempos.Reason` under which a broker counts the same datagram, or None
    for what only the receiving end looks at (the inside of a batch, the body).
    """

    def __init__(self, text: str, reason: int | None = None) -> None:
        super().__init__(text)
        self.reason = reason


class EventTooBig(LocalError):
    """An event, or a reply, does not fit into one datagram as it can go. Nothing is ever fragmented.

    ``size`` and ``limit`` in bytes, headers included, as an MTU counts.
    """

    def __init__(self, size: int, limit: int, what: str = "event", why: str = "") -> None:
        """``why``: what allows no more, and what to do; empty: the path to the broker."""
        why = (
            why or "the path to the broker carries {limit}: send a smaller body, or raise the MTU of the path"
        )
        super().__init__(f"the {what} needs a datagram of {size} bytes, {why.format(limit=limit)}")
        self.size = size
        self.limit = limit


class BodyError(LocalError):
    """A body that the topic's framing cannot carry."""


class ControlRefused(RemoteError):
    """The broker answered a control request with an error."""

    def __init__(self, code: str, text: str, hint: str) -> None:
        super().__init__(f"{text} ({code}); {hint}" if hint else f"{text} ({code})")
        self.code = code
        self.text = text
        self.hint = hint


class NoAnswer(RemoteError):
    """No reply came after every retry."""


class ApiRefused(RemoteError):
    """The control API answered with an error. ``status``: HTTP; ``problems``: the faults, each by itself."""

    def __init__(self, status: int, detail: str, problems: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.problems = tuple(problems)


class NoReply(RemoteError):
    """A request was not answered: not in time, or it cannot be."""


class Unconfirmed(RemoteError):
    """Events that were published are not known to be at the broker.

    ``missing``: how many; ``whys``: how many of each topic, by its name, and why, in words.
    """

    def __init__(self, whys: Mapping[tuple[str, str], int]) -> None:
        self.whys = dict(whys)
        self.missing = sum(whys.values())
        told = "; ".join(f"{events} of topic {topic!r}: {why}" for (topic, why), events in whys.items())
        super().__init__(f"{self.missing} events are not confirmed: {told}")


class NoMember(NoReply):
    """A request found nobody: its topic has no member. The broker said so at once."""


class ConfigError(LocalError):
    """A configuration was refused. ``problems`` holds every fault found, one text each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Unavailable(LocalError):
    """Something this machine lacks (a privilege, a package, a kernel feature) is needed for this."""
