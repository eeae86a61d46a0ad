"""``tempos tsn plan``: what it prints, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tempos.cli import main

TEXT = """
[[topic]]
id = 1
name = "alarms"
class = "SQ"
priority = 7
[[topic]]
id = 2
name = "telemetry"
rate = 100000
path = "slow"
[[topic]]
id = 3
name = "frames"
path = "slow"
"""
MEASURES = ("--cycle", "1000", "--link", "1000", "-i", "eth0")
ALARMS = ("--traffic", "alarms=1500/s:64")


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "x.toml"
    path.write_text(TEXT)
    return str(path)


def ok(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["tsn", "plan", *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_the_plan_shows_its_arithmetic_and_the_commands(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ok(capsys, "-c", file, *MEASURES, *ALARMS)
    for line in (
        "alarms: 1,500/s x 1,000 us = 1.500, rounded up to 2; 64 bytes are 130 on the wire: 2 x 130 = 260 "
        "bytes",
        "SQ window: 260 bytes x 8,000 / 1,000 = 2,080 ns",
        "1,538 bytes on the wire x 8,000 / 1,000 = 12,304 ns",
        "BQ window: what is left, 1,000,000 - 2,080 - 12,304 = 985,616 ns",
        "check: 2,080 + 985,616 + 12,304 = 1,000,000 ns, the cycle",
        "tc qdisc add dev eth0 root handle 7e50: stab overhead 24 taprio num_tc 2 "
        "map 0 0 0 0 0 0 1 0 0 0 0 0 0 0 0 0 queues 1@0 1@1 base-time 0 sched-entry S 02 2080 "
        "sched-entry S 01 985616 sched-entry S 00 12304 clockid CLOCK_TAI",
        "tc qdisc del dev eth0 root handle 7e50:",
        "those of alarms to keep the schedule, set path = \"slow\"",
        "not reckoned, for nothing tells how much they send: frames (BQ)",
        "BQ asks for 1,230,400,000 bit/s, more than the 985,616,000 of its window",
    ):  # fmt: skip
        assert line in out
    assert "etf" not in out.partition("commands")[2].partition("to know")[0]
    assert max(len(line) for line in out.splitlines() if "tc qdisc" not in line) < 260


def test_with_launch_times_etf_comes_in_and_why_is_said(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ok(capsys, "-c", file, *MEASURES, *ALARMS, "--txtime", "--delta", "100")
    assert "flags 0x1 txtime-delay 112304 clockid CLOCK_TAI" in out
    assert "tc qdisc replace dev eth0 parent 7e50:1 etf clockid CLOCK_TAI delta 100000 skip_sock_check" in out
    assert "tempos sets no launch times (SO_TXTIME) itself" in out


def test_the_same_for_scripts(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = ok(
        capsys,
        "-c",
        file,
        *MEASURES,
        *ALARMS,
        "--vlan",
        "--margin",
        "10",
        "--queues",
        "4",
        "--offload",
        "--json",
    )
    found: dict[str, Any] = json.loads(out)
    assert [
        (each["name"], each["gates"], each["start_ns"], each["length_ns"]) for each in found["windows"]
    ] == [
        ("SQ", 2, 0, 12_144),
        ("BQ", 1, 12_144, 965_520),
        ("guard", 0, 977_664, 22_336),
    ]
    assert found["clock"] is None
    (command,) = found["commands"]
    assert command[command.index("queues") :][:3] == ["queues", "3@0", "1@3"]
    assert command[-2:] == ["flags", "0x2"]
    assert not found["applied"]
    assert found["unknown"] == ["frames"]


def test_removal_needs_only_the_interface(capsys: pytest.CaptureFixture[str]) -> None:
    assert ok(capsys, "-i", "eth0", "--undo") == "tc qdisc del dev eth0 root handle 7e50:\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((*MEASURES, "--traffic", "alarms=1000/s:64"), 2, "required: --config"),
        (("-c", "FILE", "-i", "eth0"), 2, "required: --cycle, --link"),
        (("-c", "FILE", *MEASURES, "--txtime", "--offload"), 2, "not allowed with"),
        (("-c", "FILE", *MEASURES, "--txtime", "--clock", "CLOCK_REALTIME"), 2, "etf knows no other"),
        (("-c", "FILE", *MEASURES, "--txtime", "--queues", "3"), 2, "everything takes queue 0"),
        (("-c", "FILE", *MEASURES, "--offload", "--clock", "CLOCK_TAI"), 2, "the network card's own"),
        (("-c", "FILE", *MEASURES, "--delta", "5"), 2, "only with --txtime"),
        (("-c", "FILE", "-i", "a b", "--undo"), 2, "the name of a network interface"),
        (("-c", "FILE", "-i=-all", "--undo"), 2, "begins with a dash"),
        (("-c", "FILE", *MEASURES, "--link", "0"), 2, "'0' is not an integer from 1 to 1000000"),
        (("-c", "FILE", *MEASURES), 1, "tempos tsn: topic alarms is SQ, and nothing tells how much it sends"),
        (("-c", "FILE", *MEASURES, "--traffic", "alarms=1"), 1, "is no TOPIC=RATE/s:BYTES"),
        (("-c", "FILE", *MEASURES, *ALARMS, "--cycle", "20"), 1, "the shortest cycle that carries this"),
        (("-c", "/none", *MEASURES), 2, "/none: cannot be read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(
    words: tuple[str, ...], code: int, said: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tsn", "plan", *(file if word == "FILE" else word for word in words)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_classes_that_share_a_priority_cannot_be_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.toml"
    file.write_text("[quality]\nso_priority_bq = 6\n" + TEXT)
    assert main(["tsn", "plan", "-c", str(file), *MEASURES, *ALARMS]) == 1
    assert "are both 6: taprio could not tell SQ from BQ" in capsys.readouterr().err


def test_only_root_may_apply(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(subprocess, "run", None)
    for words in (("-c", file, *MEASURES, *ALARMS), ("-i", "eth0", "--undo")):
        assert main(["tsn", "plan", *words, "--apply"]) == 1
        assert capsys.readouterr().err == "tempos tsn: --apply needs root; nothing was changed\n"


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["tsn", "--help"], ["tsn", "plan", "--help"]):
        assert main(words) == 0
        assert "\nexamples:\n  tempos tsn plan" in capsys.readouterr().out


def test_adding_the_command_imports_nothing_it_needs_only_when_it_runs() -> None:
    script = (
        "import sys, tempos_broker.tsn.command\n"
        "print(sorted({'tempos_broker.config', 'subprocess', 'asyncio'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
