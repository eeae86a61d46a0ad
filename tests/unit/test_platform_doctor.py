"""What `tempos doctor` says of a platform that its Controller has judged."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tempos.doctor import Asked, Severity, judge
from tempos.doctor.serving import PAST
from tempos_controller import doctor


@pytest.mark.parametrize(
    ("code", "ago", "now", "told", "severity"),
    [
        ("TD604", 10, True, "TD604", Severity.WARNING),
        ("TD604", PAST - 60, False, "TD604", Severity.WARNING),
        ("TD604", PAST + 1, False, "TD611", Severity.NOTE),
        ("TD610", PAST + 1, False, "TD611", Severity.NOTE),
        ("TD601", PAST + 1, True, "TD601", Severity.FAULT),
        ("TD609", PAST + 1, False, "TD609", Severity.WARNING),
    ],
)
def test_what_was_counted_once_and_is_over_is_a_note(
    code: str, ago: float, now: bool, told: str, severity: Severity
) -> None:
    changed = time.time() - ago
    row: dict[str, Any] = {
        "code": code, "subject": "alarm, step store", "cause": "3 crashed, of 9",
        "fix": "tempos workflow logs alarm",
        "since": changed - 10, "changed": changed, "now": now,
    }  # fmt: skip
    (found,) = judge(doctor.PLATFORM.checks, [doctor._wrong(row)], Asked())
    assert (found.code, found.severity, found.fix) == (told, severity, row["fix"])
    assert ("since" if now else "last at") in found.cause
    assert found.cause.startswith(f"{code} " if told == "TD611" else row["cause"])
