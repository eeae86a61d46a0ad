"""What is wrong with what a daemon serves, and since when; no I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from tempos.doctor.findings import Asked, Check, Tried, judge
from tempos.doctor.serving import few

#: Seconds for which what grew is still going on; findings that are kept.
GOING_ON, FINDINGS = 60.0, 200


class Verdict:
    """By ``checks``; those of ``states`` hold or do not, all others count what happened. Unix seconds."""

    def __init__(self, checks: Sequence[Check], states: Collection[str]) -> None:
        self._checks = checks
        self._states = states
        self._known: dict[tuple[str, str], dict[str, Any]] = {}

    def judge(self, tried: list[Tried], at: float) -> list[tuple[str, dict[str, Any]]]:
        """Take note of what is found now; gives what began, grew again, or is over, by these words."""
        found = list(judge(self._checks, few(tried)[0][:FINDINGS], Asked()))
        now = {(each.code, each.subject): each for each in found if not each.had}
        over = [key for key in self._known if key not in now]
        told = [("over", self._known.pop(key)) for key in over]
        for key, each in now.items():
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = {"code": each.code, "subject": each.subject, "since": at}
                told.append(("began", known))
            elif known["cause"] != each.cause and at - known["changed"] > GOING_ON:
                told.append(("goes on", known))
            if known.get("cause") != each.cause:
                known.update(cause=each.cause, changed=at)
            known.update(name=each.name, severity=each.severity.value, means=each.means, fix=each.fix)
        return told

    def document(self, at: float) -> list[dict[str, Any]]:
        """All of it, the worst first. ``now``: it holds, or went on within the last minute."""
        rows = [
            {**each, "now": each["code"] in self._states or at - each["changed"] < GOING_ON}
            for each in self._known.values()
        ]
        return sorted(rows, key=lambda row: (not row["now"], row["severity"] not in ("warning", "fault"),
                                             -row["changed"]))  # fmt: skip
