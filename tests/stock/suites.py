"""What is run on a kernel: all of it, or the short form that tells in minutes whether anything is to be had.

The commands are those that anybody would type in the tree. Limits are for an emulated machine that others
use, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from stock.chroot import checked
from stock.job import RESULTS, TEST_LIMIT, Step

#: Steps whose output or rows are looked into; the others are judged by their exit code and their tests.
DOCTOR, DEMO, NETWORKS = "doctor", "demo", "networks"
#: The mark of tests that the short form leaves to the full one.
FULL = "full"
#: Plug-ins that none of these tests needs, and that an emulated machine is long in loading.
_UNUSED = ("schemathesis", "anyio", "platformdirs")
_TREE = Path(__file__).resolve().parents[2]
_VARIANTS = "tests/kernel/test_every_variant.py"
#: Two tests at a time: those of one file one after the other, or any.
_BY_FILE, _ANY_ORDER = ("-n", "2", "--dist", "loadfile"), ("-n", "2", "--dist", "load")
#: One process, that need not know of others; and without what imports hypothesis, which takes as long as all
#: else that such a process imports.
_ALONE = ("-p", "no:xdist", "-p", "no:hypothesispytest")
_CUT = ("tests/kernel/test_program.py", "tests/kernel/test_selector.py")


class UnknownStep(Exception):
    """A name that no step of the form has."""


def steps(*, short: bool) -> list[Step]:
    """The steps of one form."""
    # What it warns of is what the other steps show.
    doctor = Step(DOCTOR, ("tempos", "doctor", "--json"), limit=600, codes=(0, 1))
    if short:
        short_ones = ("-m", f"not {FULL}")
        return [
            # The two of tests take about the same time. What the doctor tries, they try as well.
            Step(DEMO, ("tempos", "demo", "--json", "--way", "native", "--events-only"), 600),
            replace(_pytest("variants", *short_ones, _VARIANTS, limit=1500, at_once=_ALONE), beside=True),
            replace(_pytest("kernel", *short_ones, *_CUT, limit=1500, at_once=_ALONE), beside=True),
        ]
    return [
        doctor,
        # One file, and its tests have nothing but a few maps in common.
        _pytest("variants", _VARIANTS, limit=600, at_once=_ANY_ORDER),
        # A workflow's calls take the same ways as events and their replies, between programs that are no
        # matter of a kernel.
        Step(DEMO, ("tempos", "demo", "--json", "--events-only"), limit=1800),
        # They have nothing in common, and mostly wait.
        _pytest(NETWORKS, "tests/networks", limit=5400, at_once=("-n", "4", "--dist", "load")),
        # Its first test sends the whole table through every mode: that takes as long as all of it may.
        _pytest("parity", "tests/parity", limit=3600, timeout=3500),
        _pytest("tsn", "tests/net/test_tsn.py", limit=900),
        _pytest("kernel", "tests/kernel", "--ignore", _VARIANTS, limit=5400),
    ]


def chosen(names: Sequence[str], *, short: bool) -> list[Step]:
    """The steps of one form that have these names, or all; raises :class:`UnknownStep`."""
    known = steps(short=short)
    for name in names:
        if name not in {step.name for step in known}:
            raise UnknownStep(f"no step {name}; there are {', '.join(step.name for step in known)}")
    return [step for step in known if not names or step.name in names]


def runs_tests(step: Step) -> bool:
    """Whether what came of the step is told test by test."""
    return _tests_at(step) is not None


def tests_of(step: Step) -> tuple[str, ...]:
    """All tests of the step, by their names in the results; none where it runs none."""
    if (place := _tests_at(step)) is None:
        return ()
    command = (sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider")
    # Options of one's own, such as -v, would have it say something else.
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    said = checked((*command, *step.command[place:]), environment, _TREE)
    ids = (line.partition("::") for line in said.splitlines() if "::" in line)
    return tuple(f"{path.removesuffix('.py').replace('/', '.')}::{name}" for path, _, name in ids)


def again(step: Step, tests: Collection[str]) -> Step:
    """The step with nothing but these of its tests, by their names in the results."""
    place = _tests_at(step)
    ids = (f"{name.partition('::')[0].replace('.', '/')}.py::{name.partition('::')[2]}" for name in tests)
    return replace(step, command=(*step.command[:place], *ids))


def cut(step: Step, minutes: float) -> Step:
    """The step, of which no test begins after that time; one that runs no tests as it is."""
    if (place := _tests_at(step)) is None:
        return step
    words = ("--session-timeout", str(round(60 * minutes)))
    return replace(step, command=(*step.command[: place - 2], *words, *step.command[place - 2 :]))


def _tests_at(step: Step) -> int | None:
    """Where in its command it is said which tests."""
    return step.command.index("--junitxml") + 2 if "--junitxml" in step.command else None


def _pytest(name: str, *words: str, limit: float, at_once: Sequence[str] = _BY_FILE,
            timeout: int = TEST_LIMIT) -> Step:  # fmt: skip
    """Tests, by ``at_once`` how many at a time and in which order. What came of them is in NAME.xml.

    ``timeout``: seconds for one of them with its set-up.
    """
    without = (word for name in _UNUSED for word in ("-p", f"no:{name}"))
    options = (*at_once, *without, "--timeout", str(timeout), "-p", "no:cacheprovider", "--tb", "short")
    command = ("pytest", "-q", *options, "--junitxml", f"{RESULTS}/{name}.xml", *words)
    return Step(name, command, limit)
