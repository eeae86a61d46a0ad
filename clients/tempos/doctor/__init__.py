"""What this machine and this installation can do, found out by trying, and judged: `tempos doctor`.

    gather                              analyse
    ─────────────────────────────────   ──────────────────────────────────────────
    each area tries what it is about    each check of the area looks at what it is
    and writes down what came of it     about and says how bad that is, what follows
    (:class:`Tried`)                    from it, and what to do (:class:`Finding`)

Gathering touches the machine and knows no severity; analysing is pure, so what was gathered on another
machine can be judged here. A package brings its areas by the entry-point group ``tempos.doctor``; one that
cannot be loaded is a finding itself. A code (TD001) is given once and never again for something else.
"""

from typing import TYPE_CHECKING, Any

from tempos.doctor.findings import Area, Asked, Check, Finding, Severity, Tried, judge

if TYPE_CHECKING:
    from tempos.doctor.examination import Examination, analyse, areas, examine, gather

# A broker judges by the same checks, and need not have all that an examination takes.
_LATE = ("Examination", "analyse", "areas", "examine", "gather")


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tempos.doctor import examination

    value = globals()[name] = getattr(examination, name)
    return value


__all__ = [
    "Area",
    "Asked",
    "Check",
    "Examination",
    "Finding",
    "Severity",
    "Tried",
    "analyse",
    "areas",
    "examine",
    "gather",
    "judge",
]
