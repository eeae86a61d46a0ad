"""What the full runs write into the documents: KERNELS.md, and its summary in the README.

What they found is kept beside this file, one JSON document a kernel, so that anybody can make the tables
again; a test holds the documents against it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stock import results, table
from stock.results import Account

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(__file__).with_name("found")
PAGE, README = ROOT / "KERNELS.md", ROOT / "README.md"
_BEGIN, _END = "<!-- kernels: made by make kernel-table -->", "<!-- kernels: end -->"
_PAGE = """\
# Kernels

Made by `make test-kernels test-kernel-here kernel-table` from what ran; nothing here is written by hand.

{faults}

## What is to be had

{features}

## Networks

{count} events each, from a publisher by way of the broker to a member, with the fast path native, generic and
off. A cell says which path carried them, and how many arrived where that is not all of them; "·": that kernel
does not have the device. A case is "not played" where the run came to no event; the last table says why,
and "not run" where it is younger than the last run on that kernel.
What does not arrive is told, by the ledger and by the member, to the same number. What was lost before the
broker is told by both as well. Where a case is about a queue on the broker's way out, what that queue counts
as dropped is beside the ledger. Kernels on which no case was played are left out.
"revision" is the commit that a row was played with, with a plus where the tree was
changed; "·": an older one. Beside it stands which build of the kernel that was, where it is not the last one.

{paths}

## Every case

{details}
"""


def kept() -> list[Account]:
    """What is kept of each kernel, the oldest kernel first."""
    accounts = [results.load(path) for path in KEPT.glob("*.json")]
    return sorted(
        accounts, key=lambda account: [int(part) for part in re.findall(r"\d+", account.kernel)[:2]]
    )


def take_up(folder: Path, kernel: str) -> None:
    """Have a folder of results go on from what is kept of it, if that is of a ``kernel`` like it."""
    kept_before = KEPT / f"{folder.name}.json"
    if kept_before.exists():
        account = results.load(kept_before)
        if results.is_alike(account.kernel, kernel):
            results.take_up(account, folder)


def write(folder: Path) -> None:
    """Keep the full runs whose results are in ``folder``, and write the documents anew.

    Of the steps that a run did not come to stays what was kept before, with its revision.
    """
    KEPT.mkdir(exist_ok=True)
    for path in sorted(folder.glob("*.json")):
        account = results.load(path)
        if not account.short:
            kept_before = KEPT / path.name
            account = results.completed(
                _plain(account), results.load(kept_before) if kept_before.exists() else None
            )
            results.save(account, kept_before)
            print(f"kept {account.kernel}, {'right' if account.right else 'NOT right'}")
    accounts = kept()
    PAGE.write_text(page(accounts))
    README.write_text(readme(README.read_text(), accounts))


def _plain(account: Account) -> Account:
    """Without what a kernel that is nobody's package is called where it was built."""
    if account.package:
        return account
    release = _number(account.kernel)
    rows = tuple({**row, "kernel": release} for row in account.rows)
    return replace(account, kernel=release, rows=rows)


def _number(release: str) -> str:
    return release.partition("-")[0]


def page(accounts: Sequence[Account]) -> str:
    """All of KERNELS.md."""
    count = max((row["sent"] for account in accounts for row in account.rows), default=0)
    return _PAGE.format(
        count=count,
        faults=table.faults(accounts),
        features=table.features(accounts),
        paths=table.paths(accounts),
        details=table.details(accounts),
    )


def readme(text: str, accounts: Sequence[Account]) -> str:
    """The README with its part made anew."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"README.md has no part between {_BEGIN} and {_END}")
    return f"{before}{begin}\n{table.features(accounts)}\n{end}{after}"
