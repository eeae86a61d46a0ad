"""Accounts as tables: for a terminal, and in Markdown for the documents."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from stock.results import Account, Tests

MODES = ("native", "generic", "off")
#: Checks of `tempos doctor` that go into the documents. The others are about programs behind these, or about
#: how a machine is set up.
_TELLING = (
    "TD121", "TD122", "TD123", "TD124", "TD131", "TD132", "TD133", "TD134", "TD135", "TD301", "TD302",
)  # fmt: skip
_ARCHITECTURES = ("amd64", "arm64")
_ABSENT, _LACKING, _UNPLAYED, _NOT_RUN = "·", "not here", "not played", "not run"


def as_text(account: Account) -> str:
    """One kernel for a person at a terminal: steps, what failed, every case."""
    form = "short" if account.short else "full"
    lines = [f"{account.kernel} ({account.package or account.name}), {form}, {account.seconds:.0f} s"]
    if account.trouble:
        lines.append(f"  {account.trouble}")
    lines += [f"  {line}" for line in (*_steps(account), *_wrong(account), *_cases(account))]
    lines.append(f"  {'as it should be' if account.right else 'NOT as it should be'}")
    return "\n".join(lines)


def _steps(account: Account) -> Iterator[str]:
    for step in account.steps:
        told = "" if step["right"] else f", exit code {step['code']}"
        if tests := account.tests.get(step["name"]):
            told += f", {tests.passed} passed, {len(tests.failed)} failed, {len(tests.skipped)} skipped"
        yield f"{step['name']}: {step['seconds']:.0f} s{told}"


def _wrong(account: Account) -> Iterator[str]:
    for name, tests in account.tests.items():
        yield from (f"FAILED {name}: {test}: {why}" for test, why in tests.failed.items())
        yield from (f"skipped {name}: {test}: {why}" for test, why in tests.skipped.items())
    for finding in account.findings:
        if not finding["had"]:
            yield f"doctor: {' '.join((finding['name'], finding['subject'])).strip()}: {finding['cause']}"


def _cases(account: Account) -> Iterator[str]:
    rows = sorted(account.rows, key=lambda row: (row["case"], MODES.index(row["mode"])))
    width = max((len(row["case"]) for row in rows), default=0)
    for row in rows:
        yield f"{row['case']:<{width}}  {row['mode']:<7}  {row['verdict']:<6}  {_told(row)}"


def _told(row: Mapping[str, Any]) -> str:
    if row["verdict"] == "absent":
        return str(row["fault"])
    fault = f"WRONG: {row['fault']}" if row["verdict"] == "wrong" else ""
    counts = f"{row['arrived']} of {row['sent']}"
    parts = (fault, counts, row["path"], row["ledger"], row["client"], _brief(row["reason"]))
    return "; ".join(part for part in parts if part)


# For the documents


def faults(accounts: Sequence[Account]) -> str:
    """All that was not as it should be, kernel by kernel; that there is nothing, if so."""
    told = [f"- {_column(account)}: {fault}" for account in accounts for fault in _faults(account)]
    if not told:
        return "Every run came to its end, and all was as it should be."
    return "\n".join(["What was not as it should be:", "", *told])


def _faults(account: Account) -> Iterator[str]:
    if account.trouble:
        yield f"the run on it {account.trouble}"
    for step in account.steps:
        tests = account.tests.get(step["name"])
        failed = tests.failed if tests is not None else {}
        yield from (f"{step['name']}: {test} failed: {_brief(why)}" for test, why in failed.items())
        if not step["right"] and not failed:
            yield f"{step['name']} ended with exit code {step['code']}"
    for row in _ordered(account):
        if row["verdict"] == "wrong":
            yield f"{row['case']}, {row['mode']}: {_brief(row['fault'])}"


def features(accounts: Sequence[Account]) -> str:
    """What is to be had on which kernel, as `tempos doctor` found it there by trying."""
    found = [_by_name(account) for account in accounts]
    notes: list[str] = []

    def cell(findings: Sequence[Mapping[str, Any]]) -> str:
        lacking = [finding for finding in findings if not finding["had"]]
        if not findings or not lacking:
            return "yes" if findings else _ABSENT
        told = _brief(lacking[0]["cause"])
        if told not in notes:
            notes.append(told)
        return f"no [{notes.index(told) + 1}]"

    names = dict.fromkeys(name for each in found for name in each)
    rows = [[name, *(cell(each.get(name, ())) for each in found)] for name in names]
    table = _markdown(["", *map(_column, accounts)], rows)
    return "\n".join([table, "", *(f"[{n}] {note}  " for n, note in enumerate(notes, 1))]).rstrip()


def _by_name(account: Account) -> dict[str, list[Mapping[str, Any]]]:
    """The findings that tell of the kernel; those of a name, as of several programs, belong together."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for finding in account.findings:
        if finding["code"] in _TELLING:
            found.setdefault(finding["name"], []).append(finding)
    return found


def paths(accounts: Sequence[Account]) -> str:
    """Who carries the events of each case, by kernel and mode; what of them does not arrive, and is told.

    Kernels on which no case was played are left out.
    """
    accounts = [account for account in accounts if account.rows]
    heads = [f"{_column(account)} {mode}" for account in accounts for mode in MODES]
    return _markdown(["case", *heads], list(_grid(accounts, _short_cell)))


def details(accounts: Sequence[Account]) -> str:
    """Every case on every kernel in every mode: arrived, path, ledger, member, reason, revision."""
    parts = []
    for account in accounts:
        rows = [_detail(row, account.kernel) for row in _ordered(account)]
        head = ["case", "mode", "arrived", "path", "ledger", "member", "why this path", "revision"]
        told = _markdown(head, rows) if rows else "No case was played."
        parts.append(f"### {_column(account)}\n\n{_about(account)}\n\n{told}")
    return "\n\n".join(parts)


def _detail(row: Mapping[str, Any], kernel: str) -> list[str]:
    revision = _when(row, kernel)
    without = _LACKING if row["verdict"] == "absent" else _UNPLAYED if _unplayed(row) else ""
    if without:
        return [row["case"], row["mode"], without, *[_ABSENT] * 3, _brief(row["fault"]), revision]
    arrived = f"{row['arrived']} of {row['sent']}"
    client, reason = row["client"] or _ABSENT, _brief(row["reason"])
    return [row["case"], row["mode"], arrived, row["path"], row["ledger"], client, reason, revision]


def _grid(
    accounts: Sequence[Account], cell: Callable[[Mapping[str, Any] | None], str]
) -> Iterator[list[str]]:
    found = [{(row["case"], row["mode"]): row for row in account.rows} for account in accounts]
    for case in dict.fromkeys(row["case"] for account in accounts for row in _ordered(account)):
        yield [case, *(cell(rows.get((case, mode))) for rows in found for mode in MODES)]


def _short_cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return _NOT_RUN
    if row["verdict"] == "absent":
        return _ABSENT
    if _unplayed(row):
        return _UNPLAYED
    if row["verdict"] == "wrong":
        return f"**wrong: {row['arrived']} of {row['sent']}**"
    path = row["path"].partition(" ")[0]
    return path if row["arrived"] == row["sent"] else f"{path}, {row['arrived']} of {row['sent']}"


def _unplayed(row: Mapping[str, Any]) -> bool:
    """Whether it came to nothing, as where a machine was too slow: no event was sent, none was to be."""
    return bool(row["verdict"] == "wrong" and not row["sent"] and not row["path"])


def _ordered(account: Account) -> list[Mapping[str, Any]]:
    """Rows in the order of the table of cases; those of no case that is known any more come last."""
    from networks.cases import CASES

    known = {case.name: number for number, case in enumerate(CASES)}
    return sorted(
        account.rows, key=lambda row: (known.get(row["case"], len(known)), MODES.index(row["mode"]))
    )


def _about(account: Account) -> str:
    tests = "; ".join(_outcome(step, account.tests[step["name"]], account.kernel)
                      for step in account.steps if step["name"] in account.tests)  # fmt: skip
    told = f"{account.package or account.kernel}. Tests, with the revisions that they ran at: {tests}."
    return f"{told} The run {account.trouble}." if account.trouble else told


def _outcome(step: Mapping[str, Any], tests: Tests, kernel: str) -> str:
    failed = f", {len(tests.failed)} failed" if tests.failed else ""
    return f"{step['name']}: {tests.passed} passed{failed} ({_when(step, kernel)})"


def _when(what: Mapping[str, Any], kernel: str) -> str:
    """The revision, and the kernel where it was another one."""
    revision, other = what.get("revision", _ABSENT), what.get("kernel", kernel)
    return revision if other == kernel else f"{revision}, {other}"


def _column(account: Account) -> str:
    """The kernel's number, without what a distribution counts, and its flavour if it has one."""
    number, *words = account.kernel.split("-")
    if not account.package:
        return number
    flavour = [word for word in words if word[0].isalpha() and word not in _ARCHITECTURES]
    return " ".join((number.rpartition(".")[0], *flavour))


def _brief(text: str) -> str:
    """A reason without what is another at each run: ports and numbers of processes."""
    return re.sub(r"(\d+\.\d+\.\d+\.\d+):\d+", r"\1", text).replace("|", "/").strip()


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
