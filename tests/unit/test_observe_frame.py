"""What observation tools have in common: how rows become lines, and what of a request is refused, and how."""

from __future__ import annotations

import json

import pytest

from tempos.cli.main import main
from tempos_observe.frame import processes
from tempos_observe.frame.printing import Keeping, Lines, bounds, ending, folded, look, without_room
from tempos_observe.tool import Column, Counts, Events, Histogram, Table, Wishes
from tempos_observe.tools import TOOLS, tool

PEOPLE, PROGRAMS = Wishes(), Wishes(json=True)
COLUMNS = (Column("PID", "pid", 6, "d"), Column("LAT(ms)", "lat_ms", 8, ".3f"), Column("PATH", "path", 4))


def test_a_row_is_aligned_and_nothing_in_it_commands_the_terminal() -> None:
    lines = Lines(COLUMNS)
    assert lines.head == "   PID  LAT(ms) PATH"
    assert lines.line((12, 0.5, "/tmp/a b")) == "    12    0.500 /tmp/a b"
    assert lines.line((None, None, None)) == "     -        - -"
    assert lines.line((1, 2.0, "a\x1b[2J\n\u202eb")) == "     1    2.000 a\\x1b[2J\\n\\u202eb"


def test_many_rows_are_written_as_each_would_be() -> None:
    lines = Lines(COLUMNS)
    plain = [(1, 2.0, "a"), (2, 3.0, "b")]
    for odd in ((3, None, "c"), (3, 4.0, None), (3, 4.0, "a\nb")):
        for rows in (plain, [*plain, odd], [odd, *plain]):
            assert lines.lines(iter(rows)) == [lines.line(row) for row in rows]


def test_a_narrow_terminal_gets_fewer_columns_and_is_told_which() -> None:
    spare = (Column("NETNS", "netns", 10, "d", spare=2), Column("BYTES", "bytes", 6, "d", spare=1))
    columns, row = (*COLUMNS[:2], *spare, COLUMNS[2]), (12, 0.5, 4026531833, 7, "/tmp/a")
    for width, kept, told in (
        (None, (0, 1, 2, 3, 4), []),
        (80, (0, 1, 2, 3, 4), []),
        (30, (0, 1, 3, 4), ["NETNS"]),
        (20, (0, 1, 4), ["NETNS, BYTES"]),
        (5, (0, 1, 4), ["NETNS, BYTES"]),
    ):
        lines, whole = Lines(columns, width), Lines([columns[at] for at in kept])
        assert lines.head == whole.head
        assert lines.lines([row]) == [lines.line(row)] == [whole.line(tuple(row[at] for at in kept))]
        said = without_room([columns, columns], width)
        assert said == [
            f"# no room for: {each} (a wider terminal, a file and --json have all)" for each in told
        ]


def test_comments_are_folded_for_a_terminal_only() -> None:
    lines = ["# cannot see: " + "word " * 20 + "end", "# short"]
    assert folded(lines, None) == lines
    for line in folded(lines, 40):
        assert line.startswith("#")
        assert len(line) <= 40


@pytest.mark.parametrize("name", TOOLS)
def test_a_line_of_each_table_fits_into_eighty_characters(name: str) -> None:
    chosen = tool(name)
    wishes = Wishes(own={option.name: option.default for option in chosen.options})
    for view in chosen.views(wishes):
        if isinstance(view, Events | Table):
            assert len(Lines(view.columns, 80).head) <= 80


def test_a_table_is_sorted_and_cut_for_people_and_programs_alike() -> None:
    table = Table("t", "Those:", COLUMNS, lambda session: (), order="lat_ms")
    rows = [(1, 2.0, "b"), (2, None, "c"), (3, 10.0, "a")]
    assert look(table, rows, PEOPLE)[2:] == [
        "     3   10.000 a", "     1    2.000 b", "     2        - c", "",
    ]  # fmt: skip
    (line,) = look(table, rows, Wishes(json=True, top=1))
    assert json.loads(line) == {"type": "row", "table": "t", "pid": 3, "lat_ms": 10.0, "path": "a"}


@pytest.mark.parametrize("wishes", [PEOPLE, PROGRAMS, Wishes(top=2)])
def test_rows_that_stay_are_shown_as_if_they_were_new(wishes: Wishes) -> None:
    table = Table("t", "Those:", COLUMNS, lambda session: (), order="lat_ms", keeps=True)
    keeping = Keeping(table, wishes)
    rows = [(pid, float(pid * 7 % 5), f"a{pid}") for pid in range(8)]
    for _ in range(3):
        assert keeping.look(rows) == look(table, rows, wishes)
    for turn in range(20):
        # A row that changed, one that is gone, one that came.
        rows = [(-1, turn / 3, "changed"), *rows[2:], (turn, 1.5, "new")]
        assert keeping.look(rows) == look(table, rows, wishes)


def test_counters_and_histograms_look_as_their_readers_know_them() -> None:
    counts = Counts("io", ("comm", "pid"), lambda session: ())
    rows = [(("cat", 7), 3), (("a\tb", 8), 1)]
    assert look(counts, rows, PEOPLE) == ["@io[a\\tb, 8]: 1", "@io[cat, 7]: 3"]
    assert json.loads(look(counts, rows, Wishes(json=True, top=1))[0])["count"] == 3
    usecs = Histogram("usecs", (), lambda session: ())
    buckets = [0, 0, 1, 0, 2, *[0] * 6, 4]
    lines = look(usecs, [((), buckets)], PEOPLE)
    assert lines[0] == "@usecs:"
    assert [line.split("|")[0].split() for line in lines[1:4]] == [
        ["[2,", "4)", "1"],
        ["[4,", "8)", "0"],
        ["[8,", "16)", "2"],
    ]
    assert lines[-2].startswith("[1K, 2K)")
    assert lines[-2].count("@") == 52
    assert json.loads(look(usecs, [((), buckets)], PROGRAMS)[0])["buckets"] == [
        [2, 4, 1],
        [8, 16, 2],
        [1024, 2048, 4],
    ]
    assert [bounds(index) for index in range(4)] == [(0, 1), (1, 2), (2, 4), (4, 8)]


def test_what_was_lost_is_told_by_its_name() -> None:
    assert ending(1.25, {"events": 0, "rows": 3}, PEOPLE) == ["# 1.2 s; lost: 3 rows"]
    assert ending(1.25, {"events": 0}, PEOPLE) == ["# 1.2 s; lost: nothing"]
    assert json.loads(ending(1.25, {"events": 2}, PROGRAMS)[0])["lost"] == {"events": 2}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "invalid choice"),
        (["udploss", "--interval", "0"], "seconds, at least 0.1"),
        (["udploss", "--duration", "nan"], "seconds, above 0"),
        (["udploss", "--pid", "0"], "'0': a whole number, at least 1"),
        (["udploss", "--top", "ten"], "'ten': a whole number, at least 1"),
        (["udploss", "--duration", "long"], "'long': seconds, above 0"),
        (["pauses", "--longer", "x"], "'x': milliseconds, from 0.001 to a million"),
        (["udploss", "--comm", "a-name-that-is-too-long"], "1 to 15 bytes"),
        (["udploss", "--top", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["observe", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_without_a_broker_there_is_none_to_watch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "roots", lambda: ())
    assert main(["observe", "udploss", "--broker"]) == 1
    assert "no broker and no invoker runs here" in capsys.readouterr().err
    # In a container the kernel knows processes by other numbers than we do.
    monkeypatch.setattr(processes, "sees_all_processes", lambda: False)
    assert main(["observe", "udploss", "--pid", "1"]) == 1
    assert "use --comm" in capsys.readouterr().err


def test_every_tool_says_its_question_and_what_it_hooks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["observe", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in listed] == list(TOOLS)
    for name in TOOLS:
        assert main(["observe", name, "--help"]) == 0
        text = capsys.readouterr().out
        found = tool(name)
        assert found.question.endswith("?")
        assert all(hook.what in text for hook in found.hooks)
        assert f"tempos observe {name}" in text, "an example"
