"""Comparing two runs: what noise is, what a regression is, and what belongs to the machine."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from tempos import ConfigError
from tempos_bench import command
from tempos_bench.measure.stats import summarize
from tempos_bench.report import compare, results
from tempos_bench.report.figures import Better, Figure, Report, Target, judge, median, now

TARGETS = {"lost": Target.parse("== 0")}


def measured(
    seed: int, factor: float = 1.0, noise: float = 0.02, machine: float = 1.0, lost: int = 0
) -> Report:
    """A run of 6 set-ups with 5 rounds each. The set-up moves a rate as much as a round does."""
    dice = random.Random(seed)
    bare, fast = [], []
    for _ in range(6):
        lanes = dice.gauss(1, noise)
        for _ in range(5):
            bare.append(4e6 * machine * dice.gauss(1, noise))
            fast.append(3.9e6 * machine * factor * lanes * dice.gauss(1, noise))
    blocks = (5,) * 6
    figures = [
        median("bare", summarize(bare), "datagrams/s", blocks=blocks),
        median("fast", summarize(fast), "datagrams/s", blocks=blocks, yardstick="bare"),
        median("time", summarize([1e9 / rate for rate in fast]), "ns", blocks=blocks),
        Figure("lost", lost, "datagrams", Better.LOWER),
        Figure("verified instructions", 151, "instructions"),
        Figure("offered", 4e6 * machine, "datagrams/s", Better.NEITHER),
    ]
    return Report("redirect", {"cpu": "one"}, now(), judge(figures, TARGETS))


def verdicts(old: Report, new: Report) -> dict[str, str]:
    found = compare.compare({"redirect": old}, {"redirect": new})
    return {change.figure: change.verdict for change in found.changes}


@pytest.mark.parametrize("seed", range(8))
def test_two_runs_of_the_same_agree_and_a_tenth_is_found(seed: int) -> None:
    same = verdicts(measured(seed), measured(seed + 100))
    assert same["fast"] in {"same", "unclear"}
    assert same["time"] in {"same", "unclear"}
    assert same["lost"] == same["verified instructions"] == "same"

    slower = verdicts(measured(seed), measured(seed + 100, factor=0.9))
    assert (slower["fast"], slower["time"]) == ("worse", "worse")
    faster = verdicts(measured(seed), measured(seed + 100, factor=1 / 0.9))
    assert (faster["fast"], faster["time"]) == ("better", "better")


def test_a_slower_machine_is_no_regression_of_what_has_a_yardstick() -> None:
    found = verdicts(measured(1), measured(2, machine=0.7))
    assert found["bare"] == "told"
    assert found["fast"] in {"same", "unclear"}
    assert found["offered"] == "told"
    assert found["time"] == "worse"  # no yardstick: nobody can know


def test_noise_that_hides_a_change_makes_the_verdict_unclear() -> None:
    assert verdicts(measured(1, noise=0.12), measured(2, factor=0.9, noise=0.12))["fast"] == "unclear"


def test_a_target_met_and_missed_now_is_a_regression_without_rounds() -> None:
    assert verdicts(measured(1), measured(2, lost=3))["lost"] == "worse"
    assert verdicts(measured(1, lost=3), measured(2))["lost"] == "better"


def test_the_interval_holds_the_true_ratio_nearly_always() -> None:
    dice = random.Random(5)
    held = 0
    for _ in range(60):
        old, new = ([dice.gauss(100, 5) for _ in range(15)] for _ in range(2))
        found = compare.interval(old, [value * 1.2 for value in new])
        assert found is not None
        held += found[1] <= 1.2 <= found[2]
    assert held >= 57


def test_an_interval_is_as_sure_as_the_rounds_allow_and_no_surer() -> None:
    def ends(left: int, right: int) -> tuple[float, float, float] | None:
        return compare.interval(
            [100.0 + each for each in range(left)], [200.0 + each for each in range(right)]
        )

    assert ends(4, 4) is None
    # One way in 252 to mix five with five, at either end: the outermost changes.
    assert ends(5, 5) == (202 / 102, 200 / 104, 204 / 100)
    assert ends(3, 12) is not None
    assert ends(2, 12) is None
    few = Report(
        "redirect", {}, now(), judge([median("rate", summarize([1.0, 1.1, 1.2, 1.3]), "events/s")], {})
    )
    more = Report(
        "redirect", {}, now(), judge([median("rate", summarize([9.0, 9.1, 9.2, 9.3]), "events/s")], {})
    )
    (change,) = compare.compare({"redirect": few}, {"redirect": more}).changes
    assert (change.verdict, change.low) == ("unclear", None)
    assert "4 and 4 rounds are too few for an interval of 99%" in change.why


def test_a_difference_may_be_below_zero_and_zero_is_no_base() -> None:
    old = [-1.0, 4.0, 5.0, 5.0, 6.0]
    found = compare.interval(old, [value + 5 for value in old])
    assert found is not None
    middle, low, high = found
    assert middle == 2.0
    assert low < 2 < high
    rows = judge([median("difference", summarize([0.0] * 5), "ns")], {})
    zero = Report("redirect", {}, now(), rows)
    assert verdicts(zero, zero) == {"difference": "same"}


def test_what_cannot_be_compared_is_said() -> None:
    old, new = measured(1), measured(2)
    other = Report("slow-path", {}, now(), ())
    changed = Report(
        new.scenario, {"cpu": "another"}, new.started, new.rows[1:], parameters={"rounds": 3}, complete=False
    )
    found = compare.compare({"redirect": old, "slow-path": other}, {"redirect": changed})

    text = "\n".join(found.remarks)
    for remark in ("slow-path: only in the old run", "'bare' only in the old", "rounds None and 3",
                   "cpu differs", "the new run is not complete"):  # fmt: skip
        assert remark in text
    assert text in compare.as_text(found).replace("\n\n", "\n")


def test_the_command_reads_folders_and_its_exit_code_tells_of_regressions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, one in {"a": measured(1), "b": measured(2), "c": measured(3, factor=0.9)}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "redirect.json").write_text(json.dumps(one.as_json()))

    def run(*arguments: str) -> tuple[int, str]:
        import argparse

        parser = argparse.ArgumentParser()
        command.bench(parser.add_subparsers())
        options = parser.parse_args(
            ["bench", "compare", *(str(tmp_path / word) for word in arguments), "--json"]
        )
        return options.run(options), capsys.readouterr().out

    assert run("a", "b")[0] == 0
    code, out = run("a", "c/redirect.json")
    assert code == 1
    assert json.loads(out)["worse"] >= 1
    assert run("a", "nowhere")[0] == 2


def test_files_that_are_no_results_are_refused_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("[")
    (tmp_path / "c.json").write_text('{"scenario": "x", "machine": {}, "started": "", "rows": [{"nome": 1}]}')
    with pytest.raises(ConfigError) as refused:
        results.read(tmp_path)
    assert all(name in str(refused.value) for name in ("a.json", "b.json", "c.json"))
    with pytest.raises(ConfigError, match="no result files"):
        results.read(Path(__file__).parent)


def test_a_figure_that_could_not_be_had_is_no_number_anywhere() -> None:
    (row,) = judge([median("p99", summarize([math.nan, 2.0, math.nan]), "us")], {})
    text = json.dumps(Report("x", {}, now(), (row,)).as_json(), allow_nan=False)
    assert json.loads(text)["rows"][0]["rounds"] == [None, 2.0, None]
