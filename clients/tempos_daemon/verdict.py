"""What is wrong with what a daemon serves, and since when; no I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from tempos.doctor.findings import Asked, Check, Tried, judge
from tempos.doctor.serving import few

#: Seconds for which what grew is still going on; findings that are kept.
GOING_ON, FINDINGS = 60.0, 200
_WORST = {"fault": 0, "warning": 1}


class Verdict:
    """By ``checks``; those of ``states`` hold or do not, all others count what happened. Unix seconds.

    ``unsteady``: of these, figures that may be taken back and come again. ``goes_on``: it goes on with what
    others have counted, so what is counted at its first look happened before.
    """

    def __init__(
        self,
        checks: Sequence[Check],
        states: Collection[str],
        unsteady: Collection[str] = (),
        *,
        goes_on: bool = False,
    ) -> None:
        self._checks = checks
        self._states = states
        self._unsteady = unsteady
        self._is_first = goes_on
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        #: When those of ``unsteady`` were found last.
        self._found: dict[tuple[str, str], float] = {}

    def judge(self, tried: list[Tried], at: float) -> list[tuple[str, dict[str, Any]]]:
        """Take note of what is found now; gives how each is now: "began", "before", "goes on" or "over"."""
        found = list(judge(self._checks, few(tried)[0][:FINDINGS], Asked()))
        now = {(each.code, each.subject): each for each in found if not each.had}
        self._found.update((key, at) for key in now if key[0] in self._unsteady)
        over = [key for key in self._known if key not in now and at - self._found.get(key, 0.0) > GOING_ON]
        told = [("over", self._known.pop(key)) for key in over]
        for key in over:
            self._found.pop(key, None)
        for key, each in now.items():
            known = self._known.get(key)
            if known is None:
                before = self._is_first and each.code not in self._states
                known = self._known[key] = {"code": each.code, "subject": each.subject, "since": at,
                                            "before": before}  # fmt: skip
                if before:
                    known.update(cause=each.cause, changed=at - GOING_ON)
                told.append(("before" if before else "began", known))
            elif known["cause"] != each.cause and at - known["changed"] > GOING_ON:
                told.append(("goes on", known))
            if known.get("cause") != each.cause:
                known.update(cause=each.cause, changed=at)
            known.update(name=each.name, severity=each.severity.value, means=each.means, fix=each.fix)
        self._is_first = False
        return told

    def document(self, at: float) -> list[dict[str, Any]]:
        """All of it, the worst first, then what came last: what goes on does not change places.

        ``now``: it holds, or went on within the last minute. ``before``: so it was at the first look already.
        """
        rows = [
            {**each, "now": each["code"] in self._states or at - each["changed"] < GOING_ON}
            for each in self._known.values()
        ]
        return sorted(rows, key=lambda row: (not row["now"], _WORST.get(row["severity"], 2),
                                             -row["since" if row["now"] else "changed"]))  # fmt: skip
