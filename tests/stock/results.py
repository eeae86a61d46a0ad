"""What came of a kernel: read from the folder that its run left, kept as one JSON document a kernel."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stock import suites, work

FORMAT = 1
#: Of `tempos doctor`: what is the kernel's, and no matter of this installation or of interfaces.
_AREAS = ("kernel", "time-aware sending")
#: Exit codes of pytest: all passed, some failed.
_CAME_TO_ITS_END = (0, 1)
#: The test that wrote a row.
_ROWS_TEST = "tests.networks.test_networks", "test_a_network[{case}-{mode}]"
#: How that ended, by the row's verdict; what else there is passed.
_ENDED = {"wrong": "failure", "absent": "skipped"}


@dataclass(frozen=True)
class Tests:
    """How the tests of a step ended; those that failed or were skipped by name, with the reason."""

    passed: int
    failed: Mapping[str, str]
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class Account:
    """All that came of one kernel. ``name``: the package that was asked for, or this machine.

    ``revision``: that of each step, where they are different ones; each row has that of its own run.
    ``trouble``: why there may be less than was asked for; empty if all steps ended. As their programs wrote
    them: ``findings``, what `tempos doctor` says of the kernel, ``rows``, the network cases, and ``demo``.
    """

    name: str
    package: str
    kernel: str
    revision: str
    short: bool
    seconds: float
    trouble: str
    steps: tuple[Mapping[str, Any], ...]
    tests: Mapping[str, Tests]
    findings: tuple[Mapping[str, Any], ...]
    rows: tuple[Mapping[str, Any], ...]
    demo: tuple[Mapping[str, Any], ...]

    @property
    def right(self) -> bool:
        """Whether everything was as it should be."""
        return not self.trouble and all(step["right"] for step in self.steps)


def join(fresh: Path, folder: Path, revision: str, *, partly: bool = False) -> None:
    """Put what a run of ``revision`` left in ``fresh`` in place of what others left of its steps.

    ``partly``: it ran some tests of these, and the others' outcomes stay.
    """
    before = {step["name"]: step for step in _lines(folder / work.STEPS)}
    for step in _lines(fresh / work.STEPS):
        step["revision"] = revision
        xml, known = f"{step['name']}.xml", before.get(step["name"])
        if partly and known is not None and (fresh / xml).exists():
            _join_tests(fresh / xml, folder / xml)
            # That some of its tests failed may be over by now; that it was broken off is not.
            step["right"] = step["code"] in _CAME_TO_ITS_END and not _tests(fresh / xml).failed
            step["seconds"] = round(step["seconds"] + known["seconds"], 1)
            step["revision"] = ", ".join(dict.fromkeys((*known["revision"].split(", "), revision)))
        before[step["name"]] = step
    played = [{**row, "revision": revision} for row in _lines(fresh / work.ROWS)]
    rows = {(row["case"], row["mode"]): row for row in (*_lines(folder / work.ROWS), *played)}
    for name, lines in ((work.STEPS, before.values()), (work.ROWS, rows.values())):
        (fresh / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    for path in fresh.iterdir():
        path.replace(folder / path.name)


def had(folder: Path) -> dict[str, bool]:
    """The steps of which there are results, and whether they were right."""
    return {step["name"]: step["right"] for step in _lines(folder / work.STEPS)}


def failed(folder: Path, name: str) -> tuple[str, ...]:
    """The tests of a step that failed, as far as that is known."""
    xml = folder / f"{name}.xml"
    return tuple(_tests(xml).failed) if xml.exists() else ()


def known(folder: Path, name: str) -> tuple[str, ...]:
    """All tests of a step of which it is known how they ended."""
    xml = folder / f"{name}.xml"
    return tuple(map(_name, ET.parse(xml).iter("testcase"))) if xml.exists() else ()


def forget(folder: Path, name: str, tests: Collection[str]) -> None:
    """Drop the outcomes of the step's tests that are none of ``tests``: gone, or of another name by now."""
    xml = folder / f"{name}.xml"
    if not xml.exists():
        return
    document = ET.parse(xml)
    for suite in document.iter("testsuite"):
        for case in [case for case in suite.iter("testcase") if _name(case) not in tests]:
            suite.remove(case)
    document.write(xml)


def _join_tests(fresh: Path, before: Path) -> None:
    """Take the outcomes of other tests than those in ``fresh`` into it."""
    document = ET.parse(fresh)
    suite = next(document.iter("testsuite"))
    names = {(case.get("classname"), case.get("name")) for case in document.iter("testcase")}
    for case in ET.parse(before).iter("testcase"):
        if (case.get("classname"), case.get("name")) not in names:
            suite.append(case)
    document.write(fresh)


def take_up(kept: Account, folder: Path) -> None:
    """Have ``folder``, if it has nothing of the networks, go on from the cases that are kept, and only these.

    Of other tests but the number of those that passed is kept, and not which.
    """
    steps = [step for step in kept.steps if step["name"] == suites.NETWORKS]
    if not steps or suites.NETWORKS in had(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in ((work.STEPS, steps), (work.ROWS, kept.rows)):
        with (folder / name).open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    suite = ET.Element("testsuite")
    for row in kept.rows:
        classname, name = _ROWS_TEST
        case = ET.SubElement(suite, "testcase", classname=classname, name=name.format_map(row))
        if (ended := _ENDED.get(row["verdict"])) is not None:
            ET.SubElement(case, ended, message=row["fault"])
    ET.ElementTree(suite).write(folder / f"{suites.NETWORKS}.xml")


def gather(folder: Path, *, name: str, package: str, kernel: str, short: bool, trouble: str) -> Account:
    """Read what runs have left in ``folder``."""
    steps = _ordered(_lines(folder / work.STEPS), short=short)
    return Account(
        name=name,
        package=package,
        kernel=kernel,
        revision=_revisions(steps),
        short=short,
        seconds=_seconds(steps),
        trouble=trouble or _missing(steps, short=short),
        steps=steps,
        tests={path.stem: _tests(path) for path in sorted(folder.glob("*.xml"))},
        findings=_findings(folder / f"{suites.DOCTOR}.out"),
        rows=tuple(_lines(folder / work.ROWS)),
        demo=tuple(_document(folder / f"{suites.DEMO}.out").get("rows", ())),
    )


def is_alike(kernel: str, other: str) -> bool:
    """Whether they are builds of one kernel, which a distribution has mended, by their releases."""
    return kernel.split(".")[:2] == other.split(".")[:2]


def completed(fresh: Account, before: Account | None) -> Account:
    """``fresh``, with what is known from ``before`` of steps and cases it did not come to.

    Of a kernel that is alike; each says then which it was.
    """
    if before is None or not is_alike(before.kernel, fresh.kernel) or before.short != fresh.short:
        return fresh
    had = {step["name"] for step in fresh.steps}
    others = ({"kernel": before.kernel, **step} for step in before.steps if step["name"] not in had)
    rows = _completed_rows(fresh.rows, before.rows)
    steps = _ordered([*fresh.steps, *others], short=fresh.short)
    told = _missing(fresh.steps, short=fresh.short)
    return replace(
        fresh,
        revision=_revisions(steps),
        seconds=_seconds(steps),
        trouble=_missing(steps, short=fresh.short) if fresh.trouble == told else fresh.trouble,
        steps=steps,
        tests={
            **{name: tests for name, tests in before.tests.items() if name not in had},
            **fresh.tests,
            **({suites.NETWORKS: _of_rows(rows)} if rows else {}),
        },
        findings=(fresh if suites.DOCTOR in had else before).findings,
        rows=rows,
        demo=(fresh if suites.DEMO in had else before).demo,
    )


def _completed_rows(
    fresh: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], ...]:
    """With those of cases that there are and that were not played now."""
    from networks.cases import CASES

    names, played = {case.name for case in CASES}, {(row["case"], row["mode"]) for row in fresh}
    return (
        *fresh,
        *(row for row in before if row["case"] in names and (row["case"], row["mode"]) not in played),
    )


def _of_rows(rows: Sequence[Mapping[str, Any]]) -> Tests:
    """How the tests ended that wrote them."""
    classname, name = _ROWS_TEST
    by: dict[str, dict[str, str]] = {"failure": {}, "skipped": {}, "": {}}
    for row in rows:
        by[_ENDED.get(row["verdict"], "")][f"{classname}::{name.format_map(row)}"] = row["fault"]
    return Tests(len(by[""]), by["failure"], by["skipped"])


def _ordered(steps: Sequence[Mapping[str, Any]], *, short: bool) -> tuple[Mapping[str, Any], ...]:
    # A short run leaves what a long one has found of its other steps.
    order = [step.name for some in (short, not short) for step in suites.steps(short=some)]
    return tuple(sorted(steps, key=lambda each: order.index(each["name"])))


def _missing(steps: Sequence[Mapping[str, Any]], *, short: bool) -> str:
    """Which steps the form has beside these, in words."""
    had = {step["name"] for step in steps}
    missing = [step.name for step in suites.steps(short=short) if step.name not in had]
    return f"did not come to {', '.join(missing)}" if missing else ""


def _revisions(steps: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(", ".join(step["revision"] for step in steps).split(", ")))


def _seconds(steps: Sequence[Mapping[str, Any]]) -> int:
    return round(sum(step["seconds"] for step in steps))


def save(account: Account, path: Path) -> None:
    path.write_text(json.dumps({"format": FORMAT, **asdict(account)}, indent=1, sort_keys=True) + "\n")


def load(path: Path) -> Account:
    """Read what :func:`save` has written."""
    document = json.loads(path.read_text())
    if document.pop("format") != FORMAT:
        raise ValueError(f"{path} is of another format than {FORMAT}")
    document["tests"] = {name: Tests(**tests) for name, tests in document["tests"].items()}
    for name in ("steps", "findings", "rows", "demo"):
        document[name] = tuple(document[name])
    return Account(**document)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _document(path: Path) -> dict[str, Any]:
    """The JSON object that a program printed, whatever came before it; empty if it printed none."""
    text = path.read_text(errors="replace") if path.exists() else ""
    start = text.find("{")
    try:
        found = json.loads(text[start:]) if start >= 0 else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _findings(path: Path) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        finding
        for area in _document(path).get("areas", ())
        if area["name"] in _AREAS
        for finding in area["findings"]
    )


def _tests(path: Path) -> Tests:
    passed = 0
    failed: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for case in ET.parse(path).iter("testcase"):
        name = _name(case)
        for kind, into in (("failure", failed), ("error", failed), ("skipped", skipped)):
            if (told := case.find(kind)) is not None:
                into[name] = (told.get("message") or "").partition("\n")[0][:300]
                break
        else:
            passed += 1
    return Tests(passed, failed, skipped)


def _name(case: ET.Element) -> str:
    return f"{case.get('classname', '')}::{case.get('name', '')}"
