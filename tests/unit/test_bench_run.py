"""A run: what it keeps, how long it says it will take, and what Ctrl-C leaves."""

from __future__ import annotations

import argparse
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tempos import ConfigError
from tempos_bench import command
from tempos_bench.measure.stats import summarize
from tempos_bench.report.figures import Figure, median
from tempos_bench.runs import scenario
from tempos_bench.runs.progress import Lines, display, duration
from tempos_bench.runs.rounds import in_turn, interleave, warm_up
from tempos_bench.runs.run import Run, current, running


@dataclass(frozen=True, slots=True)
class Timed:
    rate: float
    lost: int


class Shown:
    """A display that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int, float | None]] = []

    def show(self, text: str, done: int, total: int, left: float | None) -> None:
        self.seen.append((text, done, total, left))


def test_every_round_is_kept_raw_and_a_warm_up_is_not() -> None:
    run = Run()
    variants = {"a": lambda: Timed(1.5, 0), "b": lambda: Timed(2.5, 1)}
    warm_up(variants, run)
    assert run.rounds == {}
    interleave(2, variants, run)
    assert run.rounds == {"a": [{"rate": 1.5, "lost": 0}] * 2, "b": [{"rate": 2.5, "lost": 1}] * 2}


def test_the_time_left_follows_from_the_variants_that_are_done() -> None:
    now, shown = [0.0], Shown()
    run = Run(shown, clock=lambda: now[0])

    def work() -> None:
        now[0] += 2.0

    interleave(3, {"a": work, "b": work}, run)
    assert [seen[1:] for seen in shown.seen] == [
        (0, 6, None), (1, 6, 10.0), (2, 6, 8.0), (3, 6, 6.0), (4, 6, 4.0), (5, 6, 2.0),
    ]  # fmt: skip


def test_a_plan_holds_for_all_that_is_interleaved() -> None:
    shown = Shown()
    run = Run(shown)
    run.plan(8)
    for _ in range(2):
        interleave(2, {"a": int, "b": int}, run)
    assert {seen[2] for seen in shown.seen} == {8}


def interrupt_at(number: int) -> object:
    calls = [0]

    def work() -> float:
        calls[0] += 1
        if calls[0] == number:
            raise KeyboardInterrupt
        return float(calls[0])

    return work


def test_ctrl_c_leaves_the_complete_rounds() -> None:
    run = Run()
    results = interleave(5, {"a": interrupt_at(99), "b": interrupt_at(3)}, run)  # type: ignore[dict-item]
    assert {name: len(values) for name, values in results.items()} == {"a": 2, "b": 2}
    assert run.interrupted
    assert list(run.repetitions(3)) == []


def test_ctrl_c_before_the_first_round_is_complete_goes_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        interleave(5, {"a": interrupt_at(1)}, Run())  # type: ignore[dict-item]


def test_ctrl_c_leaves_the_variants_that_are_finished() -> None:
    run = Run()
    work: Any = interrupt_at(3)
    assert in_turn({"a": work, "b": work, "c": work, "d": work}, run) == {"a": 1.0, "b": 2.0}
    assert run.interrupted
    assert run.rounds == {"a": [1.0], "b": [2.0]}
    with pytest.raises(KeyboardInterrupt):
        in_turn({"a": interrupt_at(1)}, Run())  # type: ignore[dict-item]


@dataclass(frozen=True)
class Parameters:
    rounds: int
    share: float = 0.5
    names: tuple[str, ...] = ()
    deep: bool = False


class Interrupted:
    """A scenario's module; the third call of its only variant is interrupted."""

    Parameters = Parameters

    def run(self, p: Parameters, run: Run) -> list[Figure]:
        assert current() is run
        work = interrupt_at(p.rounds)
        rates = interleave(5, {"a": work}, run)["a"]  # type: ignore[dict-item]
        return [median("rate", summarize(rates), "datagrams/s")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scenario, "_folder", lambda: tmp_path)
    monkeypatch.setattr(scenario, "_module", lambda name: Interrupted())
    (tmp_path / "one.toml").write_text(
        'description = "one"\n[parameters]\nrounds = 3\nshare = 1\nnames = ["a"]\ndeep = false\n'
        '[short]\nrounds = 2\n[targets]\nrate = ">= 1"\nother = ">= 1"\n'
    )
    return tmp_path


def run_one(folder: Path, *arguments: str) -> tuple[int, Path]:
    parser = argparse.ArgumentParser()
    command.bench(parser.add_subparsers())
    options = parser.parse_args(["bench", "run", "one", "--json-dir", str(folder / "out"), *arguments])
    return options.run(options), folder / "out" / "one.json"


def test_an_interrupted_run_keeps_what_is_finished_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, path = run_one(folder)
    document = json.loads(path.read_text())
    assert code == 130
    assert document["complete"] is False
    assert document["rounds"] == {"a": [1.0, 2.0]}
    assert document["rows"][0]["rounds"] == [1.0, 2.0]
    assert document["rows"][1] | {"name": "other", "value": None, "met": None} == document["rows"][1]
    assert "NOT COMPLETE" in capsys.readouterr().out


def test_an_interrupted_run_with_nothing_finished_leaves_nothing(folder: Path) -> None:
    code, path = run_one(folder, "--set", "rounds=1")
    assert code == 130
    assert not path.exists()


def test_short_and_set_change_parameters(folder: Path) -> None:
    loaded = scenario.load("one", short=True, changes=["share=0.25", 'names=["x", "y"]', "deep=true"])
    assert loaded.parameters == Parameters(2, 0.25, ("x", "y"), True)
    assert scenario.load("one", short=True, changes=["rounds=7"]).parameters.rounds == 7


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("round=1", "one.round: unknown, allowed: rounds, share, names, deep"),
        ("rounds=0.5", "one.rounds: 0.5, allowed: int above 0"),
        ("names=[1]", "one.names: .1., allowed: a list, each a text"),
        ("deep=1", "one.deep: 1, allowed: true or false"),
        ("rounds", "'rounds': allowed: NAME=VALUE"),
    ],
)
def test_a_bad_change_says_what_is_allowed(folder: Path, change: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        scenario.load("one", changes=[change])


def test_outside_of_a_run_nothing_is_kept() -> None:
    run = Run()
    with running(run):
        current().note("a")
        current().note("a")
    current().note("b")
    assert run.notes == ["a"]


def test_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with display("redirect", stream) as shown:
        assert isinstance(shown, Lines)
        shown.show("round 1", 0, 4, None)
        shown.show("round 2", 2, 4, 65.0)
    assert stream.getvalue().splitlines()[0].endswith("redirect: round 1")
    assert stream.getvalue().splitlines()[1].endswith("redirect: round 2 (2 of 4, 1:05 left)")
    assert duration(None) == "0:00"
