"""Statistics, targets, reports and scenario files of the benchmarks: all that needs no node."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from tempos import ConfigError, Unavailable
from tempos_bench import command
from tempos_bench.measure import stats
from tempos_bench.measure.frame import udp_frame
from tempos_bench.nodes import machine
from tempos_bench.report.figures import Figure, Report, Row, Target, Verdict, as_text, judge, median, now
from tempos_bench.runs import scenario
from tempos_bench.runs.rounds import interleave
from tempos_bench.runs.run import Run

VALUES = st.lists(st.floats(0.001, 1e9), min_size=1)


@given(VALUES, st.floats(0.1, 100))
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(values: list[float], p: float) -> None:
    found = stats.percentile(values, p)
    share = len(values) * p / 100

    assert found in values
    assert sum(value <= found for value in values) >= share - 1e-6
    assert sum(value < found for value in values) < share + 1e-6


@given(VALUES)
def test_a_summary_is_ordered(values: list[float]) -> None:
    found = stats.summarize(values)
    assert min(values) <= found.low <= found.high <= max(values)
    assert min(values) <= found.median <= max(values)


def test_ratios_are_taken_round_by_round() -> None:
    # The second round was disturbed: both sides ran at half the speed.
    assert stats.ratios([90, 45, 90], [100, 50, 100]) == stats.Summary(0.9, 0.9, 0.9)
    assert stats.differences([9, 8, 7], [5, 5, 5]).median == 3


def test_no_value_gives_no_figure() -> None:
    assert math.isnan(stats.percentile([], 50))
    assert math.isnan(stats.summarize([]).median)
    assert math.isnan(stats.rate_between([(0, 0)], 0, 1))


def test_a_rate_counts_only_what_grew_inside_the_interval() -> None:
    marks = [(0, 0), (1_000_000_000, 500), (2_000_000_000, 1500), (3_000_000_000, 9999)]
    assert stats.rate_between(marks, 500_000_000, 2_500_000_000) == 1000


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        (">= 0.95", 0.95, True),
        (">= 0.95", 0.949, False),
        ("<= 30", 30.1, False),
        ("== 0", 0, True),
        ("== 0", -2, False),
        (">= 0", math.nan, False),
    ],
)
def test_a_figure_meets_its_target_or_does_not(text: str, value: float, met: bool) -> None:
    (row,) = judge([Figure("x", value, "unit")], {"x": Target.parse(text)})
    assert row.met is met
    assert row.target == text
    assert json.loads(json.dumps(row.value, allow_nan=False)) == (None if math.isnan(value) else value)


@pytest.mark.parametrize(
    ("values", "verdict", "between"),
    [
        # Five rounds are the fewest of which both ends lie outside once in twenty runs.
        ((0.96, 0.97, 0.98, 0.96), "unclear", None),
        ((0.96, 0.97, 0.98, 0.96, 0.99), "met", (0.96, 0.99)),
        ((0.90, 0.91, 0.92, 0.93, 0.94), "missed", (0.90, 0.94)),
        ((0.94, 0.96, 0.97, 0.98, 0.99), "unclear", (0.94, 0.99)),
        # Of more rounds the outermost may lie anywhere.
        ((0.5, 0.96, 0.96, 0.97, 0.97, 0.98, 0.98, 3.0), "met", (0.96, 0.98)),
        # No such thing can be: what it was held against was disturbed.
        ((1.5, 1.6, 1.6, 1.7, 1.8), "unclear", (1.5, 1.8)),
    ],
)
def test_a_target_is_met_or_missed_where_the_rounds_can_tell(
    values: tuple[float, ...], verdict: str, between: tuple[float, float] | None
) -> None:
    figure = median("x", stats.summarize(values), "x", credible=(0, 1.1))
    (row,) = rows = judge([figure], {"x": Target.parse(">= 0.95")})
    assert row.verdict.value == verdict
    assert (row.low, row.high) == (between or (None, None))
    report = Report("redirect", {}, now(), rows)
    assert report.verdict.value == verdict
    assert Report.from_json(json.loads(json.dumps(report.as_json()))) == report
    assert (f"unclear: x: {row.doubt}" in as_text(report)) is (verdict == "unclear")


def test_rounds_of_one_set_up_count_as_one() -> None:
    values, blocks = [0.96, 0.97] * 4, (2,) * 4
    (row,) = judge([median("x", stats.summarize(values), "x", blocks=blocks)], {"x": Target.parse(">= 0.95")})
    assert (row.verdict, row.doubt) == (Verdict.UNCLEAR, "4 rounds are too few to tell")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.sampled_from((0.5, 0.9, 0.99)))
def test_an_interval_of_the_median_has_the_chance_it_says(values: list[float], confidence: float) -> None:
    found = stats.interval(values, confidence)
    number = len(values)

    def covered(cut: int) -> float:
        return 1 - 2 * sum(math.comb(number, heads) for heads in range(cut + 1)) / 2**number

    ordered = sorted(values)
    cuts = [cut for cut in range((number + 1) // 2) if covered(cut) >= confidence]
    assert found == ((ordered[cuts[-1]], ordered[-1 - cuts[-1]]) if cuts else None)


@pytest.mark.parametrize("text", ["", ">=", "0.95", "> 1", ">= x", None, 3])
def test_what_is_no_target_is_refused(text: object) -> None:
    with pytest.raises(ValueError):
        Target.parse(text)


def test_a_target_for_a_figure_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no figure is named 'ratoi', there are 'ratio'"):
        judge([Figure("ratio", 1, "x")], {"ratoi": Target.parse(">= 1")})


def test_the_json_of_a_report_has_the_documented_keys() -> None:
    rows = (Row("ratio", 0.97, "x", ">= 0.95", True), Row("rate", 3e6, "datagrams/s", None, None))
    made = Report("redirect", machine.describe(), now(), rows, rounds={"fast path": [{"sent": 1}]})
    document = json.loads(json.dumps(made.as_json()))

    assert set(document) >= {"scenario", "machine", "started", "rows", "rounds", "samples", "parameters"}
    wanted = {"name": "ratio", "value": 0.97, "unit": "x", "target": ">= 0.95", "met": True}
    assert wanted.items() <= document["rows"][0].items()
    assert document["rows"][1]["met"] is None
    assert document["variants"] == ["fast path"]
    assert Report.from_json(document) == made
    assert made.verdict is Verdict.MET
    assert "3,000,000" in as_text(made)


def test_rounds_take_turns_at_being_first() -> None:
    order: list[str] = []

    def variant(name: str) -> int:
        order.append(name)
        return len(order)

    names = ("a", "b", "c")
    results = interleave(3, {name: lambda name=name: variant(name) for name in names}, Run())

    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert {name: len(values) for name, values in results.items()} == {"a": 3, "b": 3, "c": 3}


@given(st.binary(max_size=200))
def test_a_frame_is_what_its_checksums_say(payload: bytes) -> None:
    frame = udp_frame(
        ("02:00:0a:00:01:02", "10.0.1.2", 40000), ("02:00:0a:00:01:01", "10.0.1.1", 9998), payload
    )
    parsed = Ether(frame)
    rebuilt = parsed.copy()
    del rebuilt[IP].chksum, rebuilt[UDP].chksum, rebuilt[IP].len, rebuilt[UDP].len

    assert bytes(rebuilt) == frame
    assert (parsed.dst, parsed[IP].src, parsed[UDP].dport) == ("02:00:0a:00:01:01", "10.0.1.2", 9998)
    assert bytes(parsed[UDP].payload) == payload


@pytest.mark.parametrize("name", scenario.names())
def test_every_scenario_file_is_sound(name: str) -> None:
    loaded = scenario.load(name)
    assert loaded.description
    assert scenario.load(name, short=True).name == name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scenario, "_folder", lambda: tmp_path)
    return tmp_path


def test_all_faults_of_a_scenario_file_are_told_at_once(folder: Path) -> None:
    (folder / "redirect.toml").write_text(
        "note = 1\n[parameters]\nrounds = 0\nframes = 'many'\nfast = 1\n[targets]\nratio = 'good'\n"
    )
    with pytest.raises(ConfigError) as refused:
        scenario.load("redirect")

    text = str(refused.value)
    for fault in ("note: unknown", "rounds: 0", "frames: 'many'", "fast: unknown", "payload: missing",
                  "repetitions: missing", "targets.ratio: 'good'", "description: None"):  # fmt: skip
        assert fault in text
    assert text.count(str(folder / "redirect.toml")) == 8


@dataclass(frozen=True)
class _NoParameters:
    pass


class _Module:
    """A scenario's module that measures nothing."""

    Parameters = _NoParameters

    def __init__(self, value: float | BaseException) -> None:
        self._value = value

    def run(self, parameters: object, progress: object) -> list[Figure]:
        if isinstance(self._value, BaseException):
            raise self._value
        return [Figure("ratio", self._value, "x", credible=(0, 2))]


@pytest.mark.parametrize(
    ("value", "code"),
    [(1.0, 0), (0.5, 1), (Unavailable("no BPF here"), 2), (9.0, 3), (KeyboardInterrupt(), 130)],
)
def test_the_exit_code_tells_met_missed_unable_interrupted(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    value: float | BaseException,
    code: int,
) -> None:
    monkeypatch.setattr(scenario, "_module", lambda name: _Module(value))
    (folder / "one.toml").write_text('description = "one"\n[targets]\nratio = ">= 0.95"\n')
    parser, target = _parser(), folder / "out" / "one.json"

    options = parser.parse_args(["bench", "run", "one", "--json", str(target)])
    assert options.run(options) == code

    shown = capsys.readouterr()
    assert target.exists() is (code in {0, 1, 3})
    assert ("no BPF here" in shown.err) is (code == 2)
    assert ("MISSED" in shown.out) is (code == 1)
    assert ("unclear: ratio: not credible: 9 is outside 0 … 2" in shown.out) is (code == 3)


@dataclass(frozen=True)
class _Parts:
    parts: int


def test_with_other_parameters_than_the_files_a_target_may_have_no_figure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = _Module(1.0)
    module.Parameters = _Parts  # type: ignore[assignment]
    monkeypatch.setattr(scenario, "_module", lambda name: module)
    (folder / "one.toml").write_text(
        'description = "one"\n[parameters]\nparts = 2\n[targets]\nratio = ">= 0.95"\nsecond = ">= 1"\n'
    )

    for more, code in (([], 2), (["--set", "parts=1"], 0)):
        options = _parser().parse_args(["bench", "run", "one", *more])
        assert options.run(options) == code
    shown = capsys.readouterr()
    assert "no figure is named 'second'" in shown.err
    assert "second" in shown.out


def test_all_runs_every_scenario_and_gives_the_worst_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"a": 1.0, "b": 0.5, "c": 1.0}
    monkeypatch.setattr(scenario, "_module", lambda name: _Module(values[name]))
    for name in values:
        (folder / f"{name}.toml").write_text(f'description = "{name}"\n[targets]\nratio = ">= 0.95"\n')
    options = _parser().parse_args(["bench", "run", "all", "--json-dir", str(folder / "results")])

    assert options.run(options) == 1
    written = {path.stem: json.loads(path.read_text()) for path in (folder / "results").iterdir()}
    assert {name: one["rows"][0]["met"] for name, one in written.items()} == {
        "a": True,
        "b": False,
        "c": True,
    }
    assert capsys.readouterr().out.count("ratio") == 3


def test_what_stands_is_not_measured_again_and_a_plan_tells_what_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"a": 1.0, "b": 0.5, "c": KeyboardInterrupt()}
    ran: list[str] = []

    def module(name: str) -> _Module:
        ran.append(name)
        return _Module(values[name])

    for name in values:
        (folder / f"{name}.toml").write_text(f'description = "{name}"\n[targets]\nratio = ">= 0.95"\n')
    results = str(folder / "results")

    def run(*more: str) -> tuple[int, str]:
        options = _parser().parse_args(["bench", "run", "all", *more])
        code = options.run(options)
        return code, capsys.readouterr().out

    monkeypatch.setattr(scenario, "_module", module)
    assert run("--json-dir", results)[0] == 130
    values["c"] = 1.0
    ran.clear()
    code, out = run("--json-dir", results, "--plan")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[2:5]] == [
        ["a", "there"],
        ["b", "there"],
        ["c", "not"],
    ]
    assert out.endswith("left to run: 0:00:00, and 1 that were never timed here\n")
    # What fell short is told again.
    code, out = run("--json-dir", results, "--resume")
    assert code == 1
    assert "a: there, measured" in out
    assert [name for name in ran if name == "c"]
    assert run("--resume")[0] == run("--plan")[0] == 2
    monkeypatch.setattr(machine, "describe", lambda: {"kernel": "another"})
    assert "another " in run("--json-dir", results, "--plan")[1]


def test_an_unknown_scenario_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    options = _parser().parse_args(["bench", "run", "redirct"])
    assert options.run(options) == 2
    assert "no scenario 'redirct'; there are blast, " in capsys.readouterr().err


def _parser():  # type: ignore[no-untyped-def]
    import argparse

    parser = argparse.ArgumentParser()
    command.bench(parser.add_subparsers())
    return parser
