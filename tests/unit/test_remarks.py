"""What goes wrong at every look is logged when it begins, when it changes and when it is over."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tempos import Unavailable
from tempos._remarks import Remark

pytest.importorskip("pyroute2")

from tempos_fastpath import attach
from tempos_fastpath.attach import Programs
from tempos_fastpath.network.facts import Facts
from tempos_fastpath.survival.ownership import Identity

NO_TCX = "cannot attach tc program tempos_clone to eth0 (before Linux 6.6 there are no links): EINVAL"


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What was logged since the last time, with the levels."""
    found = [(each.levelname, each.getMessage()) for each in caplog.records]
    caplog.clear()
    return found


def test_one_warning_a_change_and_one_line_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    remark = Remark(logging.getLogger("looks"), "it works again")
    caplog.set_level(logging.INFO)
    remark.gone()
    assert said(caplog) == [], "it never was wrong"
    for _ in range(3):
        remark("no file")
    assert said(caplog) == [("WARNING", "no file")]
    remark("no room")
    assert said(caplog) == [("WARNING", "no room")], "another reason is news"
    for _ in range(2):
        remark.gone()
    assert said(caplog) == [("INFO", "it works again (it went wrong 4 times)")]
    remark("no room")
    remark.gone()
    assert said(caplog) == [("WARNING", "no room"), ("INFO", "it works again")], "it begins anew"


class Refused:
    """The tc program of a kernel that takes it nowhere, as long as there is a reason."""

    why = NO_TCX

    def __init__(self, *given: object) -> None:
        pass

    def serve(self, interfaces: Mapping[int, bytes]) -> None:
        if self.why:
            raise Unavailable(self.why)


def test_that_nobody_makes_copies_is_said_once_however_often_it_is_looked_at(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(attach, "Clones", Refused)
    monkeypatch.setattr(Refused, "why", NO_TCX)
    loader = SimpleNamespace(measures=False, map=lambda name: None, keep=lambda used: None)
    programs = Programs(
        cast(Any, loader), identity=cast(Identity, None), pins=None, pin=False, reverse_path=False
    )
    facts = Facts({}, (), {})
    with pytest.raises(Unavailable, match="there are no links"):
        programs.clone()
    assert said(caplog) == [], "who asked for copies is told, and says it as the topic's reason"
    for _ in range(3):
        programs.mend(facts)
    assert said(caplog) == [("WARNING", f"events for several groups may take the slow path: {NO_TCX}")]
    monkeypatch.setattr(Refused, "why", "")
    for _ in range(3):
        programs.mend(facts)
    assert said(caplog) == [
        ("INFO", "copies for several groups are made by tc again (it went wrong 3 times)")
    ]
