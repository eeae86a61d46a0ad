"""What commands say: the usage that belongs to a mistake, commands one can type, figures and their words."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from tempos import Path as Way
from tempos import Topic
from tempos.cli import tap
from tempos.cli.main import main
from tempos.cli.words import counted
from tempos.doctor.programs import located, typed, with_sudo
from tempos.requests.tracing import Report, Trace, as_fields
from tempos_invoker.command import show_errors


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        (("pub", "-t", "heat", "--oops"), "usage: tempos pub "),
        (("ctl", "topic", "list", "--oops"), "usage: tempos ctl topic list "),
        (("workflow", "top", "--oops"), "usage: tempos workflow top "),
    ],
)
def test_what_is_no_option_is_answered_by_the_usage_of_the_command(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], usage: str
) -> None:
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith(usage)
    assert told.endswith("unrecognized arguments: --oops\n")


def test_a_program_of_administrators_is_found_whatever_the_path_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("tempos.doctor.programs._ADMINISTRATORS", (str(Path(sys.executable).parent),))
    assert located(Path(sys.executable).name) == sys.executable
    assert located("no-such-program") is None


def test_a_fix_can_be_typed_by_whoever_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert typed("sysctl -w a=1", "root") == "sysctl -w a=1"
    assert typed("sysctl -w a=1", "ann") == "sudo sysctl -w a=1"
    assert typed("tempos status", "ann") == "tempos status"
    monkeypatch.setattr("sys.argv", ["/home/ann/.venv/bin/tempos"])
    assert with_sudo("doctor") == "sudo /home/ann/.venv/bin/tempos doctor"
    monkeypatch.setattr("sys.argv", ["/usr/bin/tempos"])
    assert with_sudo("doctor") == "sudo tempos doctor"


def test_a_number_has_its_word() -> None:
    assert (counted(1, "topic"), counted(1200, "topic")) == ("1 topic", "1,200 topics")


def test_the_path_of_a_probe_is_a_word() -> None:
    report = Report("g", "10.0.0.1", 5000, 1, 0, Way.SLOW, 1.0, 0.0, None, None, None, None)
    fields = as_fields(Trace(Topic(1, "heat"), 367, 1, 0, 0, (report,), 0.0, False, 0))
    assert f"{fields['reports'][0]['path']}" == "slow"


@pytest.mark.parametrize(
    ("events", "last", "is_told"), [([], None, True), ([], 0, False), ([1], None, False)]
)
def test_tap_says_why_a_journal_may_have_no_event(
    events: list[int], last: int | None, is_told: bool,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pages = ({"missed": 0, "events": each} for each in ([], events, []))
    monkeypatch.setattr(tap, "_pages", lambda _: pages)
    monkeypatch.setattr(tap, "_print", lambda *_: None)
    options = argparse.Namespace(last=last, pcap=False, api="", topic="news")
    assert tap.run(options) == 0
    assert ("has no member" in capsys.readouterr().err) is is_told


def test_failures_that_are_not_told_are_said_to_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    none = {"errors": [], "found": 0, "dropped": 0}
    assert show_errors(none) == "no failures are kept"
    assert show_errors(none, is_chosen=True) == "no failure that is kept is such"
    failure = {
        "number": 7, "times": {"received": 1e18}, "workflow": "w", "step": "s", "condition": "error",
        "attempts": 1, "id": "a:1", "reason": "it raised",
    }  # fmt: skip
    told = show_errors({"errors": [failure], "found": 1000, "dropped": 1234})
    assert told.splitlines()[-2:] == [
        "(999 more: --limit)",
        "(1,234 earlier ones are kept no more; the step's error topic had them)",
    ]
    assert main(["errors", "list", "--condition", "erorr"]) == 2
    assert "choose from 'error', 'timeout'" in capsys.readouterr().err
