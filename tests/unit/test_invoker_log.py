"""The log of a function: lines of any length, what is left out of a flood, and that it is over."""

from __future__ import annotations

import pytest

from tempos_invoker.workers.log import BURST, KEPT, LONGEST, RATE, FunctionLog, Lines


class Clock:
    now = 0.0


@pytest.fixture
def log() -> FunctionLog:
    Clock.now = 0.0
    return FunctionLog("f", lambda: 1000.0 + Clock.now, lambda: Clock.now)


def texts(log: FunctionLog) -> list[object]:
    return [line["text"] for line in log.lines()]


def test_lines_come_in_pieces_and_the_last_one_without_an_end(log: FunctionLog) -> None:
    lines = Lines(log, 7)
    for piece in (b"on", b"e\ntwo\nth", b"ree"):
        lines.feed(piece)
    assert texts(log) == ["one", "two"]
    lines.end()
    assert log.lines()[-1] == {"time": 1000.0, "pid": 7, "text": "three"}


def test_a_line_that_is_too_long_is_cut_and_one_without_end_is_not_kept_for_ever(log: FunctionLog) -> None:
    lines = Lines(log, 7)
    lines.feed(b"x" * (LONGEST + 5) + b"\n")
    assert texts(log) == ["x" * LONGEST + f" ... ({LONGEST + 5} bytes)"]
    for _ in range(10):
        lines.feed(b"y" * LONGEST)
    assert len(log.lines()) == 4
    lines.feed(b"\n\xff\n")
    assert texts(log)[-1] == "\ufffd"


def test_of_a_flood_the_rest_is_left_out_and_counted(log: FunctionLog) -> None:
    lines = Lines(log, 7)
    lines.feed(b"a line\n" * 5000)
    assert len(log.lines()) == BURST
    lines.feed(b"another\n" * 1000 + b"one more that is cut ")
    assert log.left_out == 6000 - BURST
    Clock.now += 1.0
    lines.feed(b"here\n" + b"after\n" * 1000)
    assert log.left_out == 7000 - BURST - RATE
    assert set(texts(log)) == {"a line", "after"}
    Clock.now += 60.0
    lines.feed(b"\n".join(b"%d" % n for n in range(int(BURST))) + b"\n")
    assert len(log.lines()) <= KEPT
