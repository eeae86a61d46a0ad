"""What commands say: the usage that belongs to a mistake, commands one can type, figures and their words."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tempos import Path as Way
from tempos import Topic
from tempos.cli.main import main
from tempos.cli.words import counted
from tempos.doctor.programs import located, typed, with_sudo
from tempos.requests.tracing import Report, Trace, as_fields


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
