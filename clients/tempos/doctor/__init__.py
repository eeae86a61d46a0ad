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

from tempos.doctor.examination import Examination, analyse, areas, examine, gather
from tempos.doctor.findings import Area, Asked, Check, Finding, Severity, Tried, judge

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
