"""How long ago a former life was does not follow from the wall clock alone: that may have been set since."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tempos_broker.lives import clock
from tempos_broker.lives.clock import UP, now_there, up
from tempos_broker.lives.memory import return_key_in

WRITTEN = 1e9


def set_clocks(monkeypatch: pytest.MonkeyPatch, *, wall: float, started: float, machine: bytes) -> None:
    monkeypatch.setattr(time, "time", lambda: wall)
    monkeypatch.setattr(time, "clock_gettime", lambda _: started)
    monkeypatch.setattr(clock, "clock", lambda: machine)


@pytest.mark.parametrize("step", [0.0, 3600.0, -3600.0])
@pytest.mark.parametrize(
    ("machine", "started"),
    [(b"the same", 107.0), (b"another1", 107.0), (b"the same", 3.0), (bytes(8), 107.0)],
)
def test_while_the_machine_is_up_it_says_how_long_ago_that_was(
    monkeypatch: pytest.MonkeyPatch, step: float, machine: bytes, started: float
) -> None:
    set_clocks(
        monkeypatch, wall=WRITTEN, started=100.0, machine=b"the same" if machine != bytes(8) else machine
    )
    broker = {"wall": WRITTEN, UP: up(), "return_key": "11" * 32}
    set_clocks(monkeypatch, wall=WRITTEN + 7.0 + step, started=started, machine=machine)
    if (machine, started) == (b"the same", 107.0):
        assert now_there(broker) == WRITTEN + 7.0
        assert return_key_in(broker) == bytes([0x11]) * 32
    else:
        # What was granted then would be good for another time.
        assert return_key_in(broker) is None
        # Started anew since, for all that is known: a clock that was set back adds nothing.
        assert now_there(broker) == max(WRITTEN, WRITTEN + 7.0 + step)


@pytest.mark.parametrize("told", [None, 5, [], ["x"], ["zz", 1.0], ["00", "1"], [1, 2], [None, None]])
def test_what_makes_no_sense_is_as_if_it_were_not_there(monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    set_clocks(monkeypatch, wall=WRITTEN + 7.0, started=107.0, machine=b"the same")
    assert now_there({"wall": WRITTEN, UP: told}) == WRITTEN + 7.0
    assert now_there({UP: told}) == WRITTEN + 7.0
