"""`tempos doctor` without a machine: how what was tried becomes findings, text, JSON and an exit code."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from tempos.cli import doctor as command
from tempos.cli.main import main
from tempos.doctor import Area, Asked, Check, Finding, Severity, Tried, areas, examine, installation, judge

NATIVELY = frozenset({"native"})
NATIVE = Check(
    "TD901", "native", Severity.WARNING, "the slow path serves", "modprobe it", frozenset({"native"})
)
LOG = "0: R1=ctx()\ninvalid access to packet\nprocessed 1 insns\n"


def area(*tried: Tried, check: Check = NATIVE, prepare: Callable[[Asked], Asked] | None = None) -> Area:
    return Area("kernel", (check,), lambda asked: tried, prepare)


@pytest.mark.parametrize(
    ("had", "mode", "severity"),
    [
        (True, "native", Severity.OK),
        (False, "native", Severity.WARNING),
        (False, "auto", Severity.NOTE),
        (False, "off", Severity.NOTE),
        (None, "native", Severity.UNKNOWN),
    ],
)
def test_how_bad_it_is_depends_on_what_was_asked_for(had: bool | None, mode: str, severity: Severity) -> None:
    (found,) = judge((NATIVE,), [Tried("TD901", had, "as tried", "eth0")], Asked(mode=mode))
    assert (found.severity, found.had, found.subject, found.cause) == (severity, had, "eth0", "as tried")
    assert (found.means, found.fix) == (("", "") if had else ("the slow path serves", "modprobe it"))


def test_a_try_that_knows_better_what_to_do_says_so() -> None:
    tried = Tried("TD901", False, "gone", means="events go nowhere", fix="ip link add it", log=LOG)
    (found,) = judge((NATIVE,), [tried], Asked())
    assert (found.means, found.fix, found.log) == ("events go nowhere", "ip link add it", LOG)


def test_what_an_area_prepares_holds_for_all_and_findings_are_in_the_order_of_their_codes() -> None:
    seen = []

    def gather(asked: Asked) -> list[Tried]:
        seen.append(asked.mode)
        return [Tried("TD902", True), Tried("TD901", False, "no")]

    first = Area("first", (NATIVE, Check("TD902", "other", Severity.NOTE)), gather)
    second = area(Tried("TD901", True), prepare=lambda asked: Asked(mode="native"))
    found = examine([first, second], Asked())
    assert seen == ["native"]
    assert [each.code for each in found.findings] == ["TD901", "TD902", "TD901"]
    assert found.bad, "native was asked for, and is not to be had"


def test_an_area_with_nothing_to_say_is_left_out() -> None:
    assert examine([area()], Asked()).areas == ()


def test_a_code_is_given_once() -> None:
    codes = Counter(check.code for each in areas() for check in each.checks)
    assert codes.most_common(1)[0][1] == 1
    assert all(code.startswith("TD") and code[2:].isdigit() for code in codes)
    assert {each.name for each in areas()} >= {"installation", "configuration", "kernel", "interfaces"}


class Broken:
    """An entry point that cannot be loaded."""

    name, value = "broken", "nothing:AREA"

    def load(self) -> Area:
        raise ImportError("no module\nnamed nothing")


def test_an_area_that_cannot_be_loaded_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempos.doctor.examination._points", lambda: (Broken(),))
    found = examine(areas(), Asked())
    (broken,) = (each for name, findings in found.areas if name == "broken" for each in findings)
    assert (broken.severity, broken.cause) == (Severity.UNKNOWN, "no module; named nothing")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Area]:
    """The areas that the command finds."""
    found: list[Area] = []
    monkeypatch.setattr("tempos.doctor.areas", lambda: found)
    return found


def test_the_exit_code_is_1_if_anything_is_worse_than_a_note(
    machine: list[Area], capsys: pytest.CaptureFixture[str]
) -> None:
    machine[:] = [area(Tried("TD901", False, "no"), Tried("TD901", None, "?"))]
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "note     TD901  native  no" in out
    assert [line.strip() for line in out.splitlines() if "the slow path serves" in line] == [
        "so: the slow path serves",
        "if not: the slow path serves",
    ]
    machine[:] = [area(Tried("TD901", False, "no"), prepare=lambda asked: Asked(mode="native"))]
    assert main(["doctor"]) == 1
    assert "fix: modprobe it" in capsys.readouterr().out


def test_the_verifiers_log_comes_when_it_is_asked_for(
    machine: list[Area], capsys: pytest.CaptureFixture[str]
) -> None:
    machine[:] = [area(Tried("TD901", False, "refused " * 40, log=LOG))]
    main(["doctor"])
    brief = capsys.readouterr().out
    assert "processed" not in brief
    assert "tempos doctor --log" in brief
    assert max(map(len, brief.splitlines())) <= 130
    main(["doctor", "--log"])
    assert "| invalid access to packet\n" in capsys.readouterr().out
    for options, has in (([], False), (["--log"], True)):
        main(["doctor", "--json", *options])
        finding = json.loads(capsys.readouterr().out)["areas"][0]["findings"][0]
        assert ("log" in finding) is has
        assert finding.keys() | {"log"} == {field.name for field in fields(Finding)}


def test_the_document_says_of_which_machine_and_what_was_asked(
    machine: list[Area], capsys: pytest.CaptureFixture[str]
) -> None:
    machine[:] = [area(Tried("TD901", True, "yes"))]
    assert main(["doctor", "--json", "-i", "eth0", "-i", "eth1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["doctor"], document["exit"]) == (command.FORMAT, 0)
    assert document["asked"]["interfaces"] == ["eth0", "eth1"]
    assert {"tempos", "python", "kernel", "machine", "user"} <= document["machine"].keys()
    assert document["areas"][0]["findings"][0]["severity"] == "ok"


# What is installed


def test_an_extra_that_lacks_a_package_is_told_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = installation._installed
    monkeypatch.setattr(installation, "_installed", lambda name: name != "uvloop" and there(name))
    found = [each for each in installation.gather(Asked()) if each.subject == "tempos[broker]"]
    assert [(each.had, each.cause, each.fix) for each in found] == [
        (False, "uvloop not installed", "pip install 'tempos[broker]'")
    ]


def test_what_the_build_left_out_is_told_with_why_and_the_tools_it_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    account = [
        {"name": "tempos_bpf._gone", "extra": "fastpath", "why": "bpf/libbpf.h: No such file"},
        {"name": "tempos_fastpath/gone.bpf.o", "extra": "fastpath", "why": ""},
        {"name": "tempos.errors", "extra": "broker", "why": ""},
    ]
    (tmp_path / "_parts.json").write_text(json.dumps(account))
    monkeypatch.setattr(installation, "_folder", lambda package: tmp_path)
    monkeypatch.setattr(installation, "_installed", lambda name: True)
    monkeypatch.setattr(installation, "_LIBBPF", tmp_path / "libbpf.h")
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    found = {each.subject: each for each in installation.gather(Asked())}
    assert found["tempos_bpf._gone"].cause == "the build left it out: bpf/libbpf.h: No such file"
    assert found["tempos_fastpath/gone.bpf.o"].cause == "it is not there"
    assert found["tempos.errors"].had
    assert "apt-get install libbpf-dev" in found["libbpf's headers"].fix
    assert not found["clang"].had
    assert not found["C compiler"].had


def test_a_build_that_wrote_nothing_down_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(installation, "_folder", lambda package: tmp_path)
    for text in ("", "[1]", '{"name": 1}', '[{"name": "x"}]'):
        (tmp_path / "_parts.json").write_text(text)
        assert {each.check for each in installation.gather(Asked())} == {"TD001"}


# What the configuration says


def test_a_configuration_says_what_is_wanted_and_a_bad_one_is_a_fault(tmp_path: Path) -> None:
    from tempos_broker.doctor import CONFIGURATION, prepare

    good = tmp_path / "broker.toml"
    good.write_text(
        '[broker]\nlisten = ["10.0.1.1"]\n[fastpath]\nmode = "native"\ninterfaces = ["eth7"]\n'
        '[[topic]]\nid = 1\nname = "news"\n'
    )
    asked = prepare(Asked(config=str(good)))
    assert (asked.mode, asked.interfaces, asked.listen) == ("native", ("eth7",), ("10.0.1.1",))
    assert prepare(Asked(config=str(good), interfaces=("eth9",))).interfaces == ("eth9",)
    bad = tmp_path / "bad.toml"
    bad.write_text('[fastpath]\nmode = "warp"\nspeed = 9\n[[topic]]\nid = 1\nname = "news"\n')
    found = examine([CONFIGURATION], Asked(config=str(bad)))
    assert [each.severity for each in found.findings] == [Severity.FAULT] * 2
    assert "warp" in found.findings[0].cause + found.findings[1].cause
    assert examine([CONFIGURATION], Asked()).findings == ()
