"""Schedules: what holds for every one that is given, and which are refused."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from tempos import Quality
from tempos_broker.config import parse
from tempos_broker.tsn import tc
from tempos_broker.tsn.schedule import (
    MAX_CYCLE,
    NS,
    TC_BQ,
    TC_SQ,
    US,
    DoesNotFit,
    Flow,
    Schedule,
    plan,
    shortest_cycle,
    sq_bytes,
)
from tempos_broker.tsn.traffic import BadTraffic, Figures, bursts, figures, traffic
from tempos_broker.tsn.wire import Link

GIGABIT = Link(1000)

links = st.builds(
    Link, st.sampled_from([10, 100, 1000, 2500, 10_000, 100_000]), st.integers(68, 9216), st.booleans()
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Flow], Link, int, int]:
    """Flows whose SQ takes at most half of a link, a cycle and a margin that may or may not suffice."""
    link = draw(links)
    qualities = [Quality.SQ, *draw(st.lists(st.sampled_from(Quality), max_size=5))]
    flows = []
    for quality in qualities:
        payload, copies = draw(st.integers(1, link.largest_payload)), draw(st.integers(1, 4))
        most = link.mbit * 500_000 // 8 // (len(qualities) * copies * link.frame(payload))
        flows.append(Flow("t", quality, draw(st.integers(0, 7)), draw(st.integers(1, most)), payload, copies))
    least = -(-2 * link.ns(link.largest) // US)
    cycle = draw(st.integers(least, 20 * least + 1000))
    margin = draw(st.integers(0, 10))
    return flows, link, min(cycle, MAX_CYCLE // US) * US, margin * US


def planned(case: tuple[list[Flow], Link, int, int]) -> Schedule:
    """The schedule of a case, or another case."""
    try:
        return plan(*case)
    except DoesNotFit:
        reject()


ports = st.builds(
    tc.Port,
    st.just("eth0"),
    st.integers(8, 15),
    st.integers(0, 7),
    st.sampled_from(tc.Mode),
    st.integers(2, 64),
)


def sq(rate: int, payload: int = 64, copies: int = 1) -> Flow:
    return Flow("alarms", Quality.SQ, 7, rate, payload, copies)


# The wire


@pytest.mark.parametrize(
    ("link", "payload", "size"),
    [
        # 8 preamble, 64 frame, 12 gap: whatever is shorter is padded.
        (GIGABIT, 1, 84),
        (GIGABIT, 18, 84),
        (GIGABIT, 19, 85),
        (GIGABIT, 1472, 1538),
        (Link(1000, tagged=True), 1, 88),
        (Link(1000, tagged=True), 1472, 1542),
        (Link(1000, mtu=9000), 8972, 9038),
    ],
)
def test_a_datagram_takes_what_ethernet_adds(link: Link, payload: int, size: int) -> None:
    assert link.frame(payload) == size


def test_times_are_exact_or_rounded_up() -> None:
    assert GIGABIT.ns(1538) == 12_304
    assert GIGABIT.largest == 1538
    # 84 * 8000 / 2500 = 268.8
    assert Link(2500).ns(84) == 269
    assert Link(10).ns(84) == 67_200


# What holds for every schedule


@given(cases())
def test_every_schedule_keeps_its_promises(case: tuple[list[Flow], Link, int, int]) -> None:
    flows, link, cycle, margin = case
    made = planned(case)
    assert sum(window.length for window in made.windows) == cycle
    assert made.windows[0].start == 0
    assert all(
        before.end == after.start for before, after in zip(made.windows, made.windows[1:], strict=False)
    )
    assert all(window.length > 0 for window in made.windows)
    # No two classes at a time, and nobody in the guard band.
    assert [window.gates for window in made.windows] == [0b10, 0b01, 0]

    # By the definition, without the code's own sums: bits sent at the link's speed.
    def bits_in(length: int) -> int:
        return length * link.mbit // 1000

    demand = 0
    for flow in flows:
        if flow.quality is Quality.SQ:
            in_cycle = -(-flow.rate * cycle // NS)
            assert in_cycle * NS >= flow.rate * cycle
            demand += (
                in_cycle * flow.copies * max(flow.payload + 42 + 4 * link.tagged + 4, 64 + 4 * link.tagged)
            )
            demand += in_cycle * flow.copies * 20
    assert bits_in(made.sq.length - margin) >= 8 * demand
    largest = 8 * (link.mtu + 14 + 4 * link.tagged + 4 + 20)
    assert bits_in(made.guard.length - margin) >= largest
    assert bits_in(made.bq.length) >= largest
    # Not a whole byte more than is needed, or it would be BQ's.
    assert made.sq.length - margin <= demand * 8000 / link.mbit + 1


@given(cases(), ports)
def test_the_commands_say_what_the_schedule_says(
    case: tuple[list[Flow], Link, int, int], port: tc.Port
) -> None:
    made = planned(case)
    cycle = case[2]
    root, *children = tc.commands(made, port)
    text = " ".join(root)
    assert entries(root) == [(window.gates, window.length) for window in made.windows]
    assert sum(length for _, length in entries(root)) == cycle
    classes = text.partition(" map ")[2].split()[:16]
    assert [number for number, each in enumerate(classes) if each == "1"] == [port.so_priority_sq]
    of_bq, of_sq = re.search(r"queues (\S+) (\S+) base-time", text).groups()  # type: ignore[union-attr]
    ranges = [tuple(map(int, each.split("@"))) for each in (of_bq, of_sq)]
    (bq_count, bq_first), (sq_count, sq_first) = ranges
    flags = re.search(r"flags (\S+)", text)
    if port.mode is tc.Mode.TXTIME:
        assert flags
        assert flags[1] == "0x1"
        assert ranges == [(1, 0), (1, 0)]
        # tc-taprio(8): greater than the delta of etf.
        assert tc.txtime_delay(made, port) > port.delta
        assert len(children) == 1
        assert "skip_sock_check" in children[0]
    else:
        assert not children
        assert (bq_first, bq_count, sq_first + sq_count) == (0, sq_first, port.queues)
    # tc-taprio(8): must be omitted with full offload, and stand there without.
    assert ("clockid" in root) == (port.mode is not tc.Mode.OFFLOAD)
    assert (flags is None) == (port.mode is tc.Mode.SOFTWARE)


def entries(command: tc.Command) -> list[tuple[int, int]]:
    """The gate mask and the length, ns, of each entry of a printed schedule."""
    at = [number for number, word in enumerate(command) if word == "sched-entry"]
    return [(int(command[number + 2], 16), int(command[number + 3])) for number in at]


@given(cases(), ports)
def test_played_out_every_sq_frame_leaves_in_its_window_behind_any_bq(
    case: tuple[list[Flow], Link, int, int], port: tc.Port
) -> None:
    """Against a port that knows only open and shut, and begins the largest BQ frame at any moment it may."""
    flows, link, cycle, _ = case
    made = planned(case)
    byte = Fraction(8000, link.mbit)
    largest = (8 + 14 + 4 * link.tagged + link.mtu + 4 + 12) * byte
    sizes = [
        link.frame(flow.payload) * byte
        for flow in flows
        if flow.quality is Quality.SQ
        for _ in range(flow.frames(cycle))
    ]
    wire_free = Fraction(0)
    start = 0
    for mask, length in entries(tc.commands(made, port)[0]) * 3:
        end = start + length
        if mask == 1 << TC_SQ:
            assert wire_free <= start, "no BQ frame is still on the wire"
            for size in sizes:
                wire_free = max(wire_free, Fraction(start)) + size
            assert wire_free <= end
        elif mask == 1 << TC_BQ:
            assert wire_free <= start
            # The last one begins a hair before the gate closes.
            wire_free = end + largest
        else:
            assert mask == 0
        start = end
    assert start == 3 * cycle


@given(cases())
def test_the_shortest_cycle_is_the_shortest_that_fits(case: tuple[list[Flow], Link, int, int]) -> None:
    flows, link, _, margin = case
    cycle = shortest_cycle(flows, link, margin)
    assert cycle is not None, "half of the link is left"
    assert plan(flows, link, cycle, margin).cycle == cycle
    if cycle > US:
        with pytest.raises(DoesNotFit, match=f"the shortest cycle that carries this is {cycle // US:,} us"):
            plan(flows, link, cycle - US, margin)


# What is refused


@pytest.mark.parametrize(
    ("flows", "link", "cycle_us", "margin_us", "said"),
    [
        ([], GIGABIT, 1000, 0, "no topic of class SQ has anything to send"),
        ([sq(1000, 1473)], GIGABIT, 1000, 0, "1,473 bytes do not fit into one frame, which carries 1,472"),
        ([sq(1_000_000, 1472)], GIGABIT, 1000, 0,
         "SQ does not fit into the cycle: its window needs 12,304,000 ns, the cycle has 1,000,000; "
         "no cycle up to 1 s carries this"),
        ([sq(81_000, 1472)], GIGABIT, 1000, 0,
         "the cycle is shorter than SQ window and guard band: 996,624 ns + 12,304 ns = 1,008,928"),
        ([sq(80_000, 1472)], GIGABIT, 1000, 0,
         "the BQ window is shorter than a frame: 1,000,000 ns less 984,320 for SQ and 12,304 for the guard "
         "band leaves 3,376, the largest frame takes 12,304"),
        ([sq(1000)], GIGABIT, 20, 0, "the BQ window is shorter than a frame"),
        ([sq(1000)], GIGABIT, 25, 0, "the shortest cycle that carries this is 26 us"),
        ([sq(1000)], GIGABIT, 100, 40, "the shortest cycle that carries this is 106 us"),
        ([sq(1000)], Link(10), 1000, 0, "the shortest cycle that carries this is 2,773 us"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_sum(
    flows: list[Flow], link: Link, cycle_us: int, margin_us: int, said: str
) -> None:
    with pytest.raises(DoesNotFit) as refused:
        plan(flows, link, cycle_us * US, margin_us * US)
    assert said in str(refused.value)


# What is to be carried

CONFIG = parse(
    """
    [[topic]]
    id = 1
    name = "alarms"
    class = "SQ"
    priority = 7
    [[topic.member]]
    ip = "10.0.0.1"
    group = "a"
    [[topic.member]]
    ip = "10.0.0.2"
    group = "a"
    [[topic.member]]
    ip = "10.0.0.3"
    [[topic]]
    id = 2
    name = "moves"
    class = "SQ"
    framing = "raw"
    rate = 5000
    burst = 200
    [[topic]]
    id = 3
    name = "frames"
    framing = "raw"
    """
)


def test_traffic_comes_from_what_is_given_and_else_from_the_rate() -> None:
    found = traffic(CONFIG, [figures("alarms=2000/s:64")], GIGABIT)
    assert found.flows == (
        # Two groups: one of two members, and one that is a member by itself.
        Flow("alarms", Quality.SQ, 7, 2000, 64, 2),
        Flow("moves", Quality.SQ, 0, 5000, 1472, 1),
    )
    assert found.unknown == ("frames",)
    assert found.notes == (
        "topic moves is reckoned with its rate and the largest datagrams, 1,472 bytes; --datagram or "
        "--traffic tell better",
    )
    given = [figures("alarms=2000/s:64x5"), figures("moves=9000/s:10"), figures("frames=1/s:1000")]
    found = traffic(CONFIG, given, GIGABIT, payload=100)
    assert found.flows[0].copies == 5
    assert found.flows[1].rate == 5000, "its limit drops the rest"
    assert "planned with its limit of 5,000 datagrams/s, not with 9,000" in found.notes[0]
    assert bursts(CONFIG, found.flows, 1000 * US) == [
        "topic moves may send 200 datagrams at once, and a window has room for 5 of them: the last of such a "
        "burst leaves in the 40th cycle"
    ]


def test_a_rate_that_is_no_multiple_of_the_cycle_is_rounded_up() -> None:
    flow = sq(1001, copies=3)
    assert (flow.per_cycle(1000 * US), flow.frames(1000 * US)) == (2, 6)
    assert sq_bytes([flow], GIGABIT, 1000 * US) == 6 * 130


def test_everything_that_is_wrong_with_the_traffic_is_told_at_once() -> None:
    given = [
        figures("moves=1/s:0"),
        figures("alarm=1/s:64"),
        figures("frames=1/s:9"),
        figures("frames=2/s:9"),
    ]
    with pytest.raises(BadTraffic) as refused:
        traffic(CONFIG, given, GIGABIT)
    assert refused.value.problems == [
        '--traffic: there is no topic alarm (did you mean "alarms"?); there are alarms, moves, frames',
        "--traffic: topic frames is given twice",
        "topic alarms is SQ, and nothing tells how much it sends: give --traffic alarms=RATE/s:BYTES, or a "
        "rate in the configuration",
        "topic moves: 0 bytes; a datagram has at least the byte that names its topic",
    ]
    with pytest.raises(BadTraffic, match="23 bytes are less than the header of event topics, 24 bytes"):
        traffic(CONFIG, [figures("alarms=1/s:23")], GIGABIT)


@pytest.mark.parametrize(
    "text",
    ["", "a", "a=1", "a=1/s", "a=0/s:5", "a=1/s:5x0", "a=-1/s:5", "=1/s:5", "a=1/s:5x", "a=\u0661/s:5"],
)
def test_figures_that_are_none(text: str) -> None:
    with pytest.raises(BadTraffic, match="is no TOPIC=RATE/s:BYTES"):
        figures(text)


def test_a_topic_may_have_any_name() -> None:
    assert figures("a=b:c/s x=10/s:20x3") == Figures("a=b:c/s x", 10, 20, 3)


def test_the_longest_wait_is_a_closed_gate_and_a_frame_that_came_too_late() -> None:
    made: Schedule = plan([sq(1000)], GIGABIT, 1000 * US)
    assert made.longest_wait == (1_000_000 - 1040) + 1040
