"""The scenario that holds tempos beside other programs for existing senders: its words, and who does what."""

from __future__ import annotations

from pathlib import Path

import pytest

from tempos_bench.measure.directing import Case, cases
from tempos_bench.peers.directors import Shape, Task, directors
from tempos_bench.runs import scenario


def test_cases_are_read_as_they_are_told() -> None:
    wanted = [
        Case(Shape(1), 512),
        Case(Shape(4), 1400),
        Case(Shape(2, keep=True), 64, 1000),
        Case(Shape(1, 3, keep=True), 512),
    ]
    words = [str(case) for case in wanted]
    assert words == [
        "1 copy, 512 B",
        "4 copies, 1,400 B",
        "2 copies, 64 B, source kept, 1,000 senders",
        "spread over 3, 512 B, source kept",
    ]
    assert cases(words) == wanted
    loaded = [scenario.load("director", short=short).parameters.cases for short in (False, True)]
    assert set(loaded[1]) <= set(loaded[0])
    for told in loaded:
        assert tuple(str(case) for case in cases(told)) == told


@pytest.mark.parametrize(
    "words",
    ["", "4 copies", "512 B, 4 copies", "5 copies, 512 B", "4 copies, 1473 B", "4 copies, 512 B, fast"],
)
def test_a_case_in_other_words_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match="allowed: 'N copies, SIZE B'"):
        cases([words])


def test_each_is_given_what_it_can_do_and_says_what_is_missing(tmp_path: Path) -> None:
    found = {each.name: each for each in directors(str(tmp_path / "none"))}
    kept = {name for name, each in found.items() if each.serves(Shape(4, keep=True))}
    assert kept == {"nfacctd tee", "samplicator"}
    assert {name for name, each in found.items() if each.serves(Shape(1, 4))} == {
        "nfacctd tee",
        "nginx stream",
    }
    assert {name for name, each in found.items() if each.serves(Shape(1))} == set(found)
    assert "--samplicator" in (found["samplicator"].missing() or "")
    ends = [("10.0.2.2", 7001), ("10.0.2.2", 7002)]
    for name, each in found.items():
        folder = tmp_path / name
        folder.mkdir()
        command = each.command("program", Task(Shape(2), ("10.0.1.1", 2055), ends, folder))
        written = " ".join((*command, *(file.read_text() for file in folder.iterdir())))
        assert all(port in written for port in ("2055", "7001", "7002")), name
