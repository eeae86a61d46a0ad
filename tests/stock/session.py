"""One run from end to end: prepare, boot (or not), gather, tell."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from stock import (
    accelerator,
    cache,
    documents,
    kernels,
    machine,
    needs,
    results,
    root,
    suites,
    table,
    tree,
    work,
)
from stock.accelerator import Accelerator
from stock.chroot import Failed, checked
from stock.job import Step
from stock.kernels import Kernel
from stock.results import Account

RESULTS = tree.SOURCE / "kernel-results"


def booted(wanted: str, *, short: bool, only: Sequence[str] = (), again: bool = False,
           minutes: float | None = None) -> Account:  # fmt: skip
    """Run the suite on the kernel of a package.

    ``only``: these steps, the others' results are kept; ``again``: of them the tests that failed, or did not
    run, last time; ``minutes``: those of a step, after which it begins no further test.
    """
    revision = _revision()
    kernel, disks, runs = _prepared(wanted)
    steps = _steps(wanted, kernel.release, short=short, only=only, again=again, minutes=minutes)
    fresh = _emptied(f"{wanted}.fresh")
    boot = machine.boot(kernel, disks, runs, steps, fresh, _heard(wanted))
    print(f"{wanted}: {boot.seconds:.0f} s from boot to power-off", flush=True)
    where = f"{RESULTS.name}/{wanted}"
    trouble = "" if boot.ended else f"the guest did not come to its end; its console is in {where}"
    folder = _joined(fresh, wanted, revision, whole=not (only or again), partly=again)
    account = results.gather(
        folder, name=wanted, package=kernel.package, kernel=kernel.release, short=short, trouble=trouble
    )
    results.save(account, folder.parent / f"{folder.name}.json")
    return account


def here(*, short: bool, only: Sequence[str] = (), again: bool = False,
         minutes: float | None = None) -> Account:  # fmt: skip
    """The same on this machine's own kernel."""
    if os.geteuid():
        raise needs.Missing("root is needed: namespaces are built and BPF programs loaded")
    revision = _revision()
    steps = _steps("host", platform.release(), short=short, only=only, again=again, minutes=minutes)
    fresh = _emptied("host.fresh")
    environment = {**os.environ, "PATH": f"{tree.SOURCE}/.venv/bin:{os.environ.get('PATH', '')}"}
    work.run_all(steps, tree.SOURCE, fresh, environment, _heard("host"))
    folder = _joined(fresh, "host", revision, whole=not (only or again), partly=again)
    account = results.gather(
        folder, name="this machine", package="", kernel=platform.release(), short=short, trouble=""
    )
    results.save(account, folder.parent / f"{folder.name}.json")
    return account


def command(wanted: str, words: Sequence[str], limit: float) -> int:
    """Run any command on a kernel and print what it said; the exit code is 0 if its was."""
    kernel, disks, runs = _prepared(wanted)
    folder = _emptied(f"run-{wanted}")
    boot = machine.boot(kernel, disks, runs, [Step("run", tuple(words), limit)], folder, _heard(wanted))
    output = folder / "run.out"
    print(output.read_text(errors="replace") if output.exists() else "the guest told nothing")
    print(f"{boot.seconds:.0f} s; results in {folder}")
    return 0 if any("exit code 0," in line for line in boot.lines) else 1


def report(accounts: Sequence[Account]) -> int:
    """Print all accounts; the exit code is 1 if something was not as it should be."""
    for account in accounts:
        print(f"\n{table.as_text(account)}")
    print(f"\nresults in {RESULTS}")
    return 0 if all(account.right for account in accounts) else 1


def _prepared(wanted: str) -> tuple[Kernel, tuple[Path, Path], Accelerator]:
    with cache.locked():
        needs.ensure()
        kernel = kernels.prepare(wanted)
        runs = accelerator.choose(kernel.image)
        print(f"{wanted}: run by {runs}", flush=True)
        return kernel, (root.disk(), tree.disk()), runs


def _emptied(name: str) -> Path:
    folder = RESULTS / name
    cache.remove(folder)
    folder.mkdir(parents=True)
    return folder


def _steps(name: str, kernel: str, *, short: bool, only: Sequence[str], again: bool,
           minutes: float | None) -> list[Step]:  # fmt: skip
    chosen = suites.chosen(only, short=short)
    if again:
        documents.take_up(RESULTS / name, kernel)
        chosen = missing(RESULTS / name, chosen)
    return chosen if minutes is None else [suites.cut(step, minutes) for step in chosen]


def missing(folder: Path, steps: Sequence[Step]) -> list[Step]:
    """Of steps that have results in ``folder`` the tests that are wanting; the others as they are.

    One that runs no tests and failed is among the others.
    """
    had, found = results.had(folder), []
    for step in steps:
        if step.name not in had or not (had[step.name] or suites.runs_tests(step)):
            found.append(step)
        elif tests := wanting(folder, step):
            found.append(suites.again(step, tests))
    return found


def wanting(folder: Path, step: Step) -> list[str]:
    """Tests that failed, or of which nothing is known; outcomes of tests that are no more are forgotten."""
    tests = suites.tests_of(step)
    results.forget(folder, step.name, tests)
    known, failed = results.known(folder, step.name), results.failed(folder, step.name)
    return [*failed, *(each for each in tests if each not in known)]


def _joined(fresh: Path, name: str, revision: str, *, whole: bool, partly: bool) -> Path:
    """The folder of a run's results, with those that are ``fresh`` in it; ``whole``: with nothing else."""
    folder = RESULTS / name
    if whole:
        cache.remove(folder)
    folder.mkdir(exist_ok=True)
    results.join(fresh, folder, revision, partly=partly)
    cache.remove(fresh)
    return folder


def _heard(name: str) -> work.Say:
    return lambda line: print(f"{name}: {line}", flush=True)


@functools.cache
def _revision() -> str:
    """The commit, with a plus where the tree differs from it; of all kernels of one run."""
    try:
        commit = checked(("git", "rev-parse", "--short=10", "HEAD"), folder=tree.SOURCE).strip()
        changed = checked(
            ("git", "status", "--porcelain", "--untracked-files=no"), folder=tree.SOURCE
        ).strip()
    except Failed:
        return "unknown"
    return commit + ("+" if changed else "")
