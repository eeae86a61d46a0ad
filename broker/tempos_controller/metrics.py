"""What the Controller knows of its parts, for Prometheus; each part counts for itself at its own API."""

from __future__ import annotations

from collections.abc import Iterator

from tempos_controller.documents import Documents
from tempos_daemon.metrics import Sample, gauge, sample

READY = gauge("tempos_controller_ready", "1 if what is wanted is in force everywhere")
CHANGING = gauge("tempos_controller_changing", "1 while something is being brought into force")
WANTED = gauge("tempos_controller_wanted", "how much of a kind is wanted", "kind")
PART = gauge("tempos_controller_part_well", "1 if a part answers and has what is wanted in force", "part")
#: No counter: a Controller that comes back counts anew what goes on.
RESTARTS = gauge("tempos_controller_part_restarts", "how often a daemon was started again", "part")


def samples(told: Documents) -> Iterator[Sample]:
    """All metrics of a Controller."""
    status = told.status()
    yield sample(READY, status["ready"])
    yield sample(CHANGING, bool(status["changing"]))
    for kind in ("workflows", "functions", "triggers", "nodes"):
        yield sample(WANTED, status[kind], kind)
    for part in status["parts"]:
        yield sample(PART, not part["amiss"], part["name"])
        if part["started_here"]:
            yield sample(RESTARTS, part["restarts"], part["name"])
