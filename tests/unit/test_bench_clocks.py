"""How far two clocks are apart: what is computed of it, and what becomes of times that are compared."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import Unavailable
from tempos_bench.nodes import offset, stamps
from tempos_bench.nodes.clocks import FarClocks
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.offset import Offset
from tempos_bench.runs.run import Run, running

MS = 1_000_000
delays = st.integers(1, 50 * MS)


@given(
    ahead=st.integers(-(10**18), 10**18),
    ways=st.lists(st.tuples(delays, delays, delays), min_size=1, max_size=20),
)
def test_the_truth_is_within_the_uncertainty_however_lopsided_the_ways_are(
    ahead: int, ways: list[tuple[int, int, int]]
) -> None:
    now, exchanges = 1_000, []
    for there, busy, back in ways:
        heard = now + there + ahead
        exchanges.append((now, heard, heard + busy, now + there + busy + back))
        now += 100 * MS
    found = offset.estimate(exchanges)
    # Whole nanoseconds, as seconds in a float.
    slack = 1e-9 + abs(ahead) / 1e9 * 1e-15
    assert abs(found.ahead - ahead / 1e9) <= found.uncertainty + slack
    assert found.uncertainty <= min(there + back for there, _, back in ways) / 2e9 + slack


def test_the_shortest_exchange_counts_and_none_says_nothing() -> None:
    long, short = (0, 900, 900, 1000), (0, 60, 70, 110)
    assert offset.estimate([long, short]) == Offset(10e-9, 50e-9)
    with pytest.raises(ValueError, match="no exchange"):
        offset.estimate([])


def test_offsets_add_up_and_say_which_way() -> None:
    found = Offset(12e-6, 30e-6).then(Offset(-20e-6, 5e-6))
    assert (round(found.ahead * 1e6), round(found.uncertainty * 1e6)) == (-8, 35)
    assert found.bound == pytest.approx(43e-6)
    assert str(found) == "8 us behind (±35 us)"


def test_stamps_over_loopback_are_of_one_clock() -> None:
    with stamps._stamping() as sock:
        sock.bind(("127.0.0.1", 0))
        # Nothing more comes when the exchanges are over: the end of the reflector.
        sock.settimeout(1.0)
        port = sock.getsockname()[1]

        def reflect() -> None:
            with contextlib.suppress(OSError):
                stamps.reflect(sock)

        thread = threading.Thread(target=reflect)
        thread.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stamps, "PORT", port)
            found = stamps.exchanges("127.0.0.1", 20)
        thread.join()
    assert len(found) == 20
    assert all(sent <= heard <= answered <= came for sent, heard, answered, came in found)
    assert offset.estimate(found).bound < 1


def test_nobody_there_is_no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    with stamps._stamping() as deaf:
        deaf.bind(("127.0.0.1", 0))
        monkeypatch.setattr(stamps, "PORT", deaf.getsockname()[1])
        began = time.monotonic()
        assert stamps.exchanges("127.0.0.1", 1000) == []
        assert time.monotonic() - began < 10


class Far(Node):
    """A node whose clock is ``ahead`` seconds ahead of everybody's; reaches those in ``reached``."""

    def __init__(self, name: str, ahead: float, reached: str) -> None:
        super().__init__(name, None, (f"address of {name}",), ("eth0",))
        self.ahead, self.reached = ahead, reached

    def role(self, *arguments: object, **more: Any) -> Any:
        return None

    def inquire(self, question: str, **given: Any) -> Any:
        assert question == "exchanges"
        other = CLOCKS[given["to"].removeprefix("address of ")]
        if other.name not in self.reached:
            return []
        there = round((other.ahead - self.ahead) * 1e9) + 10_000
        return [(0, there, there, 20_000)]


CLOCKS: dict[str, Far] = {}


def far(limit: float, reached_by_a: str, reached_by_b: str = "C") -> FarClocks:
    CLOCKS.update(A=Far("A", 0.0, reached_by_a), B=Far("B", 5.0, reached_by_b), C=Far("C", 12e-6, ""))
    return FarClocks(CLOCKS["A"], CLOCKS["B"], CLOCKS["C"], limit)


@pytest.mark.parametrize(("reached", "uncertainty"), [("BC", 10), ("B", 20)])
def test_clocks_agree_within_the_limit_straight_or_by_way_of_the_broker(
    reached: str, uncertainty: int
) -> None:
    run = Run()
    with running(run):
        clocks = far(100e-6, reached)
        assert clocks.agree()
        clocks.tell()
    (note,) = run.notes
    assert note.startswith(f"the subscriber's clock against the publisher's: 12 us ahead (±{uncertainty} us)")
    assert note.endswith("latencies are not corrected by it")
    with running(run):
        assert not far((12 + uncertainty) * 1e-6 - 1e-9, reached).agree()
        assert far((12 + uncertainty) * 1e-6 + 1e-9, reached).agree()
        far(1.0, reached).tell()
    # Four topologies, one note: of all that was measured.
    assert len(run.notes) == 1
    assert "1 of 3 times" not in run.notes[0]


def test_a_step_of_a_clock_is_noticed_and_told() -> None:
    run = Run()
    with running(run):
        clocks = far(100e-6, "BC")
        assert clocks.agree()
        CLOCKS["C"].ahead = 1.0
        assert not clocks.agree()
        clocks.tell()
    (note,) = run.notes
    assert "1 of 2 times they may have been more than 100 us apart" in note
    assert "PTP or chrony" in note


def test_nobody_compared_no_note_and_nobody_reached_is_an_error() -> None:
    run = Run()
    with running(run):
        far(1.0, "BC").tell()
        with pytest.raises(Unavailable, match=f"no answer to UDP port {stamps.PORT}"):
            far(1.0, "").agree()
    assert run.notes == []
