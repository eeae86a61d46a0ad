"""What was tried, and what that means: values and the rule that leads from the one to the other.

No input or output here. All of it goes to JSON by :func:`dataclasses.asdict`, and `Tried` comes back from it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field


class Severity(str, enum.Enum):
    """How bad a finding is, the best first.

    ``ok``: it is to be had. ``note``: it is not, and something lesser serves. ``unknown``: it could not be
    tried. ``warning``: what was asked for, or the fast path as a whole, is not to be had. ``fault``: nothing
    serves.
    """

    OK = "ok"
    NOTE = "note"
    UNKNOWN = "unknown"
    WARNING = "warning"
    FAULT = "fault"


#: What makes the exit code 1.
BAD = frozenset({Severity.WARNING, Severity.FAULT})


@dataclass(frozen=True, slots=True)
class Asked:
    """What to look at. ``config``: a broker's configuration file, or none; the rest is what it says.

    ``interfaces``: names, none for all. ``listen``: IPv4 addresses. ``mode``: as in `fastpath.mode`.
    ``api``, ``token_file``: where a broker that runs is asked, and what with.
    ``state``: the file of its state, empty for the usual one, or "off". ``ports``: of UDP, that it binds.
    ``controller``, ``controller_token_file``: where a Controller is asked, and what with.
    ``attach``: programs may be put on those interfaces for a moment, which interrupts some cards.
    """

    config: str = ""
    interfaces: tuple[str, ...] = ()
    listen: tuple[str, ...] = ()
    mode: str = "auto"
    attach: bool = False
    api: str = ""
    token_file: str = ""
    state: str = ""
    ports: tuple[int, ...] = ()
    controller: str = ""
    controller_token_file: str = ""


@dataclass(frozen=True, slots=True)
class Tried:
    """One thing that was tried. ``had`` is None where it could not be tried; ``cause`` says why it is so.

    ``check``: the code of the check that it is for. ``subject``: what of several (a program, an interface).
    ``log``: all that the kernel said, where that is more. ``means``, ``fix``: in place of the check's, where
    only this try knows them.
    """

    check: str
    had: bool | None
    cause: str = ""
    subject: str = ""
    log: str = ""
    means: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check says of one thing. ``means``: what follows from it. ``fix``: a command, or empty."""

    code: str
    name: str
    severity: Severity
    had: bool | None
    subject: str
    cause: str
    means: str = ""
    fix: str = ""
    log: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A row of an area's table. ``lacking``: how bad it is not to have it; the words are for that case.

    ``wanted``: the modes of the fast path that stand or fall with it; where none of them was asked for, its
    lack is a note.
    """

    code: str
    name: str
    lacking: Severity
    means: str = ""
    fix: str = ""
    wanted: frozenset[str] = field(default_factory=frozenset)

    def finding(self, tried: Tried, asked: Asked) -> Finding:
        """What it means that this came of it."""
        if tried.had:
            return Finding(self.code, self.name, Severity.OK, True, tried.subject, tried.cause)
        severity = Severity.UNKNOWN if tried.had is None else self.lacking
        if severity in BAD and self.wanted and asked.mode not in self.wanted:
            severity = Severity.NOTE
        return Finding(
            self.code,
            self.name,
            severity,
            tried.had,
            tried.subject,
            tried.cause,
            tried.means or self.means,
            tried.fix or self.fix,
            tried.log,
        )


@dataclass(frozen=True, slots=True)
class Area:
    """A part of the machine that is looked at as a whole.

    ``gather`` tries; it blocks, and gives a reason in place of an error. ``prepare`` says more exactly what
    was asked for, for this and all other areas; it raises :class:`tempos.TemposError` if that is nonsense.
    """

    name: str
    checks: tuple[Check, ...]
    gather: Callable[[Asked], Sequence[Tried]]
    prepare: Callable[[Asked], Asked] | None = None


def judge(checks: Sequence[Check], tried: Sequence[Tried], asked: Asked) -> Iterator[Finding]:
    """The findings of an area, by its table; what no check is about would be a fault of ours."""
    by_code = {check.code: check for check in checks}
    for each in tried:
        yield by_code[each.check].finding(each, asked)
