"""What runs of stock kernels leave, and the tables made of it: read whole, and told honestly."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from stock import accelerator, cache, documents, needs, results, session, suites, table, tree, work
from stock.job import Step, from_text, to_text

CLASS = 'classname="tests.kernel.test_a"'
JUNIT = f"""<testsuites><testsuite>
<testcase {CLASS} name="test_good"/>
<testcase {CLASS} name="test_bad"><failure message="assert 1 == 2&#10;more">long</failure></testcase>
<testcase {CLASS} name="test_set_up"><error message="no fixture">long</error></testcase>
<testcase {CLASS} name="test_left_out"><skipped message="this kernel lacks it"/></testcase>
</testsuite></testsuites>"""
REASON = "XDP native, leaves by eth1"
ROW = {
    "case": "straight", "mode": "native", "sent": 200, "arrived": 200, "path": "fast", "reason": REASON,
    "ledger": "all delivered", "client": "", "verdict": "right", "fault": "", "kernel": "6.1.0-56-amd64",
}  # fmt: skip
FINDING = {
    "code": "TD131", "name": "links of tc programs (tcx)", "subject": "", "severity": "note", "had": False,
    "cause": "member 10.0.0.1:4711: before Linux 6.6 there are none", "means": "", "fix": "",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a short run leaves in which a test failed."""
    for step in suites.steps(short=True):
        done = {
            "name": step.name,
            "code": int(step.name == "kernel"),
            "seconds": 1.5,
            "revision": "0123456789",
            "right": step.name != "kernel",
        }
        with (tmp_path / work.STEPS).open("a") as steps:
            steps.write(json.dumps(done) + "\n")
    (tmp_path / "kernel.xml").write_text(JUNIT)
    (tmp_path / work.ROWS).write_text(json.dumps(ROW) + "\n")
    areas = [
        {"name": "kernel", "findings": [FINDING]},
        {"name": "interfaces", "findings": [{"name": "eth0"}]},
    ]
    (tmp_path / "doctor.out").write_text("a warning\n" + json.dumps({"areas": areas}, indent=2))
    (tmp_path / "demo.out").write_text(json.dumps({"rows": [{"way": {"name": "native"}}]}))
    return tmp_path


def gathered(folder: Path, trouble: str = "") -> results.Account:
    return results.gather(folder, name="linux-image-amd64", package="linux-image-6.1.0-56-amd64 6.1.192-2",
                          kernel="6.1.0-56-amd64", short=True, trouble=trouble)  # fmt: skip


def test_what_a_run_leaves_is_read_whole(folder: Path, tmp_path: Path) -> None:
    account = gathered(folder)
    tests = account.tests["kernel"]
    assert tests.passed == 1
    assert tests.failed == {
        "tests.kernel.test_a::test_bad": "assert 1 == 2",
        "tests.kernel.test_a::test_set_up": "no fixture",
    }
    assert tests.skipped == {"tests.kernel.test_a::test_left_out": "this kernel lacks it"}
    assert (account.findings, account.rows, account.demo) == (
        (FINDING,),
        (ROW,),
        ({"way": {"name": "native"}},),
    )
    results.save(account, tmp_path / "kept.json")
    assert results.load(tmp_path / "kept.json") == account


def test_a_run_is_right_only_if_all_of_it_was(folder: Path) -> None:
    assert not gathered(folder).right, "a step failed"
    steps = (folder / work.STEPS).read_text().replace('"right": false', '"right": true')
    (folder / work.STEPS).write_text(steps)
    assert gathered(folder).right
    assert not gathered(folder, trouble="the guest did not end by itself").right
    (folder / work.STEPS).write_text("".join(steps.splitlines(keepends=True)[:-1]))
    cut = gathered(folder)
    assert (cut.right, cut.trouble) == (False, "did not come to kernel")


def test_steps_that_ran_again_take_the_place_of_what_was_there(folder: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    done = {"name": "kernel", "code": 0, "seconds": 9.5, "right": True}
    (fresh / work.STEPS).write_text(json.dumps(done) + "\n")
    (fresh / "kernel.xml").write_text(f"<testsuite><testcase {CLASS} name='test_bad'/></testsuite>")
    results.join(fresh, folder, "9876543210+")
    account = gathered(folder)
    assert [step["name"] for step in account.steps] == [step.name for step in suites.steps(short=True)]
    assert (account.right, account.tests["kernel"].passed, account.rows) == (True, 1, (ROW,))
    assert account.revision == "0123456789, 9876543210+", (
        "what was not run again is of the revision that it was"
    )
    # Of those that failed, and of some cases: what is there of the others stays.
    assert results.failed(folder, "kernel") == ()
    fresh.mkdir(exist_ok=True)
    (folder / "kernel.xml").write_text(JUNIT)
    (fresh / work.STEPS).write_text(json.dumps({**done, "code": 1}) + "\n")
    names = results.failed(folder, "kernel")
    (step,) = (each for each in suites.chosen(["kernel"], short=True))
    assert suites.again(step, names).command[-2:] == (
        "tests/kernel/test_a.py::test_bad", "tests/kernel/test_a.py::test_set_up",
    )  # fmt: skip
    (fresh / "kernel.xml").write_text(
        f"<testsuites><testsuite><testcase {CLASS} name='test_bad'/></testsuite></testsuites>"
    )
    (fresh / work.ROWS).write_text(json.dumps({**ROW, "mode": "off"}) + "\n")
    results.join(fresh, folder, "5555555555", partly=True)
    account = gathered(folder)
    assert (account.tests["kernel"].passed, list(account.tests["kernel"].failed)) == (
        2,
        ["tests.kernel.test_a::test_set_up"],
    )
    assert [(row["mode"], row.get("revision")) for row in account.rows] == [
        ("native", None),
        ("off", "5555555555"),
    ], "each row is of the revision that it was played with"
    assert (account.right, account.revision) == (False, "0123456789, 9876543210+, 5555555555")
    # Tests that passed are no whole step where it was broken off before the others.
    for code, right in ((2, False), (0, True)):
        fresh.mkdir(exist_ok=True)
        (fresh / work.STEPS).write_text(json.dumps({**done, "code": code}) + "\n")
        (fresh / "kernel.xml").write_text(f"<testsuite><testcase {CLASS} name='test_set_up'/></testsuite>")
        results.join(fresh, folder, "5555555555", partly=True)
        assert gathered(folder).right == right
    # A test that is no more, or has another name, did not pass, and cannot be run again.
    results.forget(folder, "kernel", ["tests.kernel.test_a::test_bad", "tests.kernel.test_a::test_new"])
    assert results.known(folder, "kernel") == ("tests.kernel.test_a::test_bad",)
    assert gathered(folder).tests["kernel"] == results.Tests(1, {}, {})
    with pytest.raises(suites.UnknownStep, match="no step parity; there are demo, variants, kernel"):
        suites.chosen(["kernel", "parity"], short=True)


def test_what_a_run_did_not_come_to_stays_as_it_was_found_before(folder: Path, tmp_path: Path) -> None:
    before, partial = gathered(folder), tmp_path / "partial"
    partial.mkdir()
    done = {"name": "kernel", "code": 0, "seconds": 9.5, "right": True, "revision": "9876543210"}
    (partial / work.STEPS).write_text(json.dumps(done) + "\n")
    (partial / "kernel.xml").write_text(f"<testsuite><testcase {CLASS} name='test_bad'/></testsuite>")
    fresh = gathered(partial)
    assert fresh.trouble == "did not come to demo, variants"
    whole = results.completed(fresh, before)
    assert (whole.right, whole.tests["kernel"].passed, whole.revision) == (
        True, 1, "0123456789, 9876543210",
    )  # fmt: skip
    assert (whole.findings, whole.rows, whole.demo) == (before.findings, before.rows, before.demo)
    assert [step["name"] for step in whole.steps] == [step.name for step in suites.steps(short=True)]
    # A guest that fell over is told as such; of another kernel nothing is taken, but of a former build of it.
    fallen = results.completed(replace(fresh, trouble="the guest did not come to its end"), before)
    assert fallen.trouble == "the guest did not come to its end"
    assert results.completed(fresh, replace(before, kernel="6.12.1-amd64")) == fresh
    former = results.completed(fresh, replace(before, kernel="6.1.0-0-amd64"))
    assert [step.get("kernel") for step in former.steps] == ["6.1.0-0-amd64", "6.1.0-0-amd64", None]
    # So with cases: one that was played is as it was found now, and one that is no more is left out.
    (row,) = before.rows
    rows = (row, {**row, "mode": "off", "kernel": "6.1.0-0-amd64"}, {**row, "case": "none that there is"})
    played = {**row, "verdict": "wrong", "fault": "lost 3"}
    former = results.completed(replace(fresh, rows=(played,)), replace(before, rows=rows))
    assert former.rows == (played, rows[1])
    networks = former.tests[suites.NETWORKS]
    assert (networks.passed, list(networks.failed.values())) == (1, ["lost 3"])
    assert "| ·, 6.1.0-0-amd64 |" in table.details([former])
    assert results.completed(fresh, None) == fresh


def test_once_more_means_what_failed_and_what_is_new(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (step,) = suites.chosen(["kernel"], short=True)
    collected = suites.tests_of(step)
    assert "tests.kernel.test_selector" in {name.partition("::")[0] for name in collected}
    known = tuple(
        f"tests.kernel.test_a::{name}" for name in ("test_good", "test_left_out", "test_bad", "test_set_up")
    )
    monkeypatch.setattr(suites, "tests_of", lambda step: (*known, collected[0]))
    assert session.wanting(folder, step) == [
        "tests.kernel.test_a::test_bad", "tests.kernel.test_a::test_set_up", collected[0]
    ]  # fmt: skip
    (demo,) = suites.chosen(["demo"], short=True)
    parity = suites.chosen(["parity"], short=False)
    assert [each.name for each in session.missing(folder, [step, *parity])] == ["kernel", "parity"]
    assert session.missing(folder, [step])[0].command[-1].startswith("tests/kernel/")
    monkeypatch.undo()
    assert session.missing(folder, [demo]) == []
    steps = (folder / work.STEPS).read_text()
    (folder / work.STEPS).write_text(steps.replace('"right": true', '"right": false'))
    assert session.missing(folder, [demo]) == [demo], "it runs no tests of which some could be enough"
    assert suites.cut(demo, 10) == demo
    short, (whole,) = suites.cut(step, 10), suites.chosen(["kernel"], short=True)
    assert "--session-timeout 600 --junitxml" in " ".join(short.command)
    assert suites.tests_of(short) == suites.tests_of(whole)


def test_once_more_goes_on_from_the_cases_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (step,) = suites.chosen([suites.NETWORKS], short=False)
    collected, name = suites.tests_of(step), "linux-image-amd64"
    monkeypatch.setattr(suites, "tests_of", lambda step: collected)
    kept, folder = results.load(documents.KEPT / f"{name}.json"), tmp_path / name
    documents.take_up(folder, "6.12.0-0-amd64")
    assert not folder.exists(), "of another kernel nothing is taken"
    row = {**kept.rows[0], "verdict": "wrong", "fault": "lost 3"}
    monkeypatch.setattr(results, "load", lambda path: replace(kept, rows=(row, *kept.rows[1:-1])))
    for _ in range(2):
        documents.take_up(folder, kept.kernel)
        assert [each.name for each in session.missing(folder, [step])] == [suites.NETWORKS]
        cases = {f"{each['case']}-{each['mode']}" for each in (kept.rows[-1], row)}
        wanting = session.wanting(folder, step)
        assert cases <= {name.partition("[")[2].rstrip("]") for name in wanting}
        assert len(wanting) == len(collected) - len(kept.rows) + len(cases), "those that are kept are known"
        taken = results.gather(folder, name=name, package="", kernel=kept.kernel, short=False, trouble="")
        assert taken.rows == (row, *kept.rows[1:-1])
        assert taken.steps == tuple(each for each in kept.steps if each["name"] == suites.NETWORKS)
        assert list(taken.tests[suites.NETWORKS].failed.values()) == ["lost 3"]


def test_the_short_form_loads_all_but_some_combinations_of_constants() -> None:
    ((short,), (whole,)) = (suites.chosen(["variants"], short=short) for short in (True, False))
    left_out = set(suites.tests_of(whole)) - set(suites.tests_of(short))
    assert {name.partition("[")[0].rpartition("::")[2] for name in left_out} == {
        "test_the_programs_by_addresses_and_silence",
        "test_the_xdp_programs_by_how_they_know_of_tags",
        "test_the_programs_by_whose_frames_they_take",
    }
    assert set(suites.tests_of(short)) < set(suites.tests_of(whole))


def test_a_terminal_shows_what_failed_and_what_is_lacking(folder: Path) -> None:
    text = table.as_text(gathered(folder))
    for told in ("kernel: 2 s, exit code 1, 1 passed, 2 failed, 1 skipped", "test_bad: assert 1 == 2",
                 "straight  native   right   200 of 200; fast; all delivered; XDP native, leaves by eth1",
                 "NOT as it should be"):  # fmt: skip
        assert told in text


def test_the_documents_tables(folder: Path) -> None:
    lost = {
        **ROW,
        "mode": "generic",
        "arrived": 190,
        "path": "slow",
        "ledger": "10 lost",
        "client": "10 missed",
        "revision": "9876543210",
    }
    absent = {**ROW, "mode": "off", "verdict": "absent", "fault": "Unknown device type"}
    wrong = {**ROW, "case": "other", "arrived": 3, "verdict": "wrong", "fault": "3 of 200 arrived"}
    slow = {
        **wrong,
        "mode": "off",
        "sent": 0,
        "arrived": 0,
        "path": "",
        "fault": "ProgramFailed: not ready in time",
    }
    started = {**slow, "mode": "generic", "path": "started", "fault": "nothing about VRF"}
    with (folder / work.ROWS).open("a") as rows:
        rows.writelines(json.dumps(row) + "\n" for row in (lost, absent, wrong, slow, started))
    accounts = [gathered(folder)]
    assert "| links of tc programs (tcx) | no [1] |" in table.features(accounts)
    assert "[1] member 10.0.0.1: before Linux 6.6 there are none" in table.features(accounts), (
        "a port says nothing"
    )
    assert "| straight | fast | slow, 190 of 200 | · |" in table.paths(accounts)
    assert "| other | **wrong: 3 of 200** | **wrong: 0 of 0** | not played |" in table.paths(accounts)
    (younger,) = {line for line in table.paths([replace(accounts[0], rows=(wrong,)), *accounts]).splitlines()
                  if line.startswith("| straight")}  # fmt: skip
    assert younger.startswith("| straight | not run | not run | not run | fast |")
    details = table.details(accounts)
    assert "| other | off | not played | · | · | · | ProgramFailed: not ready in time | · |" in details
    assert (
        f"| straight | generic | 190 of 200 | slow | 10 lost | 10 missed | {REASON} | 9876543210 |" in details
    )
    assert "kernel: 1 passed, 2 failed (0123456789)" in details
    begun = "# tempos\n<!-- kernels: made by make kernel-table -->\nold\n<!-- kernels: end -->\nmore\n"
    made = documents.readme(begun, accounts)
    assert made.startswith("# tempos\n<!-- kernels: made")
    assert made.endswith("<!-- kernels: end -->\nmore\n")
    assert "old" not in made
    assert documents.readme(made, accounts) == made


def test_the_page_begins_with_all_that_was_not_as_it_should_be(folder: Path) -> None:
    account = gathered(folder)
    wrong = {**ROW, "mode": "off", "verdict": "wrong", "fault": "3 of 200 arrived"}
    cut = replace(
        account,
        kernel="6.12.117+deb12-amd64",
        tests={},
        trouble="did not come to demo",
        rows=(ROW, wrong),
    )
    page = documents.page([account, cut])
    head, _, _ = page.partition("## What is to be had")
    for fault in (
        "- 6.1: kernel: tests.kernel.test_a::test_bad failed: assert 1 == 2",
        "- 6.1: kernel: tests.kernel.test_a::test_set_up failed: no fixture",
        "- 6.12: the run on it did not come to demo",
        "- 6.12: kernel ended with exit code 1",
        "- 6.12: straight, off: 3 of 200 arrived",
    ):
        assert fault in head.splitlines()
    assert len(head.splitlines()) == 12, "and nothing else"
    right = replace(account, steps=tuple({**step, "right": True} for step in account.steps), tests={})
    assert "all was as it should be.\n\n## What is to be had" in documents.page([right])
    for each in documents.kept():
        assert each.right == ("all was as it should be" in documents.page([each]))


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("6.1.0-56-amd64", "6.1"), ("6.1.0-56-cloud-amd64", "6.1 cloud"), ("6.1.0-56-rt-amd64", "6.1 rt"),
        ("6.12.117+deb12-amd64", "6.12"), ("6.12.117+deb12-cloud-arm64", "6.12 cloud"),
        ("6.1.0-0.deb11.7-rt-amd64", "6.1 rt"), ("6.8.0-31-lowlatency", "6.8 lowlatency"),
    ],
)  # fmt: skip
def test_a_column_is_named_by_the_kernel_s_number_and_its_flavour(
    folder: Path, kernel: str, name: str
) -> None:
    account = replace(gathered(folder), kernel=kernel)
    assert table.features([account]).splitlines()[0] == f"|  | {name} |"
    assert f"### {name}\n" in table.details([account])


def test_the_documents_say_what_was_found() -> None:
    accounts = documents.kept()
    assert documents.PAGE.read_text() == documents.page(accounts), "make kernel-table"
    readme = documents.README.read_text()
    assert readme == documents.readme(readme, accounts), "make kernel-table"


def test_what_the_guest_installs_is_what_the_groups_include_as_well() -> None:
    groups = {"docs": ["mkdocs"], "dev": [{"include-group": "docs"}, "pytest"], "other": ["none"]}
    assert list(tree.grouped("dev", groups)) == ["mkdocs", "pytest"]


def test_a_step_goes_to_the_guest_and_back_and_is_ended_at_its_limit(tmp_path: Path) -> None:
    steps = [Step("good", (sys.executable, "-c", "print('{results}')"), 30.0),
             Step("odd", (sys.executable, "-c", "raise SystemExit(3)"), 30.0, codes=(0, 3)),
             Step("hangs", ("sleep", "60"), 0.2)]  # fmt: skip
    heard: list[str] = []
    done = work.run_all(from_text(to_text(steps)), tmp_path, tmp_path, {}, heard.append)
    assert [(each.code, each.right) for each in done] == [(0, True), (3, True), (-9, False)]
    assert (tmp_path / "good.out").read_text().strip() == str(tmp_path)
    assert "hangs is over its limit of 0.2 s" in heard
    assert len((tmp_path / work.STEPS).read_text().splitlines()) == 3


def test_steps_beside_each_other_go_together_and_the_next_waits_for_both(tmp_path: Path) -> None:
    """Each of two that go together ends only once the other has begun."""
    meet = "touch $0; until [ -e $1 ]; do sleep 0.01; done; touch $0.done"
    steps = [Step("one", ("sh", "-c", meet, "one", "other"), 30.0),
             Step("two", ("sh", "-c", meet, "other", "one"), 30.0, beside=True),
             Step("last", ("ls", "one.done", "other.done"), 30.0)]  # fmt: skip
    done = work.run_all(
        from_text(to_text(steps)), tmp_path, tmp_path, {"PATH": os.environ["PATH"]}, [].append
    )
    assert [(each.name, each.code) for each in done] == [("one", 0), ("two", 0), ("last", 0)]


def test_an_entry_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ROOT", tmp_path)

    def fail(place: Path) -> None:
        (place / "half").touch()
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        cache.entry("root", "new", fail)
    made = cache.entry("root", "new", lambda place: (place / "whole").touch())
    assert [path.name for path in made.iterdir()] == ["whole"]
    assert cache.entry("root", "new", fail) == made, "made once"
    newer = cache.entry("root", "newer", lambda place: None)
    assert list(newer.parent.iterdir()) == [newer], "what is older goes"


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("echo 'VFS: Unable to mount root fs'", ""),
        ("echo booting", "qemu ended with 0: booting"),
        ("echo 'failed to set MSR 0x10a'; echo 'Unable to mount root fs'; exit 1",
         "qemu ended with 1: failed to set MSR 0x10a"),
        ("exec sleep 60", "a kernel had not started within 0.3 s"),
    ],
)  # fmt: skip
def test_kvm_is_taken_where_a_kernel_comes_to_miss_its_disk(does: str, told: str, tmp_path: Path) -> None:
    assert accelerator.fault(("sh", "-c", does), tmp_path / "vmlinuz", 0.3 if "sleep" in does else 30) == told


def test_what_runs_a_kernel_is_tried_once_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache, "ROOT", tmp_path / "kept")
    monkeypatch.setattr(accelerator, "DEVICE", tmp_path / "kvm")
    monkeypatch.delenv("TEMPOS_ACCEL", raising=False)
    kernel, qemu = tmp_path / "vmlinuz", tmp_path / "qemu"

    def chosen() -> str:
        return str(accelerator.choose(kernel, qemu=str(qemu)))

    assert chosen() == f"emulation ({tmp_path}/kvm cannot be had)"
    (tmp_path / "kvm").touch()
    qemu.write_text("#!/bin/sh\necho no such processor; exit 1\n")
    qemu.chmod(0o755)
    for _ in range(2):
        assert chosen() == "emulation (with KVM qemu ended with 1: no such processor)"
    assert capsys.readouterr().out.count("trying whether KVM") == 1
    monkeypatch.setenv("TEMPOS_ACCEL", "kvm")
    forced = accelerator.choose(kernel, qemu=str(qemu))
    assert (forced.name, forced.options[:2]) == ("KVM", ("-accel", "kvm"))
    monkeypatch.setenv("TEMPOS_ACCEL", "xen")
    with pytest.raises(needs.Missing, match="it is tcg or kvm"):
        chosen()
