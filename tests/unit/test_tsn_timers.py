"""Schedules that the arithmetic allows and timers do not: what is warned of, refused, proposed instead."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tempos import Quality
from tempos.cli import main
from tempos_broker.tsn import apply as carrying_out
from tempos_broker.tsn import tc
from tempos_broker.tsn.apply import NotApplied, Programs, Result, apply
from tempos_broker.tsn.lateness import Lateness, lateness, measure
from tempos_broker.tsn.schedule import US, Flow, plan
from tempos_broker.tsn.timers import LATE, hazards
from tempos_broker.tsn.wire import Link

LINK = Link(1000)
SOFTWARE = tc.Port("eth0", 6, 0)
OFFLOAD = tc.Port("eth0", 6, 0, tc.Mode.OFFLOAD)


def schedule(cycle_us: int, margin_us: int = 0, rate: int = 2000, payload: int = 64) -> Any:
    return plan([Flow("alarms", Quality.SQ, 7, rate, payload)], LINK, cycle_us * US, margin_us * US)


def told(cycle_us: int, margin_us: int = 0, port: tc.Port = SOFTWARE, **traffic: int) -> list[str]:
    return [str(hazard) for hazard in hazards(schedule(cycle_us, margin_us, **traffic), port)]


@pytest.mark.parametrize(
    ("cycle", "margin", "remedy"),
    [
        (1000, 0, "plan with --margin 100"),
        (1000, 1, "plan with --margin 100"),
        (1000, 98, "plan with --margin 100"),
        (1000, 100, ""),
        (300, 0, "plan with --margin 100, which takes --cycle 326 at least"),
        # Two margins, two largest frames, and the same again for BQ to be late, have no room in it.
        (150, 0, "plan with --margin 100, which takes --cycle 326 at least"),
    ],
)
def test_a_window_that_opens_for_less_than_timers_are_late_starves_sq(
    cycle: int, margin: int, remedy: str
) -> None:
    found = [each for each in told(cycle, margin) if "no SQ event leaves" in each]
    assert bool(found) is bool(remedy)
    assert all(each.endswith(f"; {remedy}") for each in found)


def test_what_is_proposed_is_taken() -> None:
    for cycle, margin in ((1000, 100), (326, 100)):
        assert told(cycle, margin) == []


def test_a_window_that_is_long_by_its_load_needs_no_margin() -> None:
    assert told(1000, rate=100_000, payload=64) == []


def test_the_window_of_bq_is_held_to_the_same() -> None:
    (found,) = told(300, 100)
    assert "BQ, and everything else that is not SQ, may not leave" in found
    longer = int(found.rpartition("--cycle ")[2])
    assert told(longer, 100) == []
    assert told(longer - 1, 100) != []


def test_a_delta_that_timers_miss_drops_what_it_launches() -> None:
    late = tc.Port("eth0", 6, 0, tc.Mode.TXTIME, delta=LATE - 1)
    (found,) = told(1000, port=late)
    assert found.endswith("drops what comes after it; plan with --delta 200")
    assert told(1000, port=tc.Port("eth0", 6, 0, tc.Mode.TXTIME, delta=200 * US)) == []


def test_a_card_that_opens_the_gates_itself_needs_no_timer() -> None:
    assert told(1000, port=OFFLOAD) == []


class Machine(Programs):
    """An interface without a schedule, whose driver reports ``driver`` Mbit/s; nothing is ever changed."""

    driver: int | None = 1000
    late = 50 * US

    def lateness(self) -> Lateness | None:
        return Lateness(500, self.late)

    def run(self, command: Any) -> Result:
        words = tuple(command)
        if words[0] == "ip":
            return Result(0, json.dumps([{"ifname": "eth0", "mtu": 1500, "num_tx_queues": 4}]))
        if "show" in words:
            return Result(0, "[]")
        raise AssertionError(f"{words} was run")

    def speed(self, interface: str) -> int | None:
        return self.driver


def test_apply_refuses_what_would_starve_and_says_how_to_have_it_nonetheless() -> None:
    with pytest.raises(NotApplied) as refused:
        apply(schedule(1000), SOFTWARE, Machine())
    text = str(refused.value)
    assert "the SQ window is open for 2,080 ns" in text
    assert "plan with --margin 100" in text
    assert text.endswith("With --anyway it is applied as it is; nothing was changed")
    with pytest.raises(AssertionError, match="was run"):
        apply(schedule(1000), SOFTWARE, Machine(), anyway=True)


@pytest.mark.parametrize(
    ("driver", "says"),
    [(100, "reports 100 Mbit/s"), (None, "knows no speed, for which the kernel takes 10")],
)
def test_apply_refuses_a_plan_for_a_faster_link_than_the_kernel_reckons_with(
    driver: int | None, says: str
) -> None:
    machine = Machine()
    machine.driver = driver
    with pytest.raises(NotApplied, match=rf"{says}, the plan was made for 1,000: .*--link {driver or 10}\."):
        apply(schedule(1000, 100), SOFTWARE, machine)
    machine.driver = 10_000
    with pytest.raises(AssertionError, match="was run"):
        apply(schedule(1000, 100), SOFTWARE, machine)
    machine.driver = None
    with pytest.raises(AssertionError, match="was run"):
        apply(schedule(1000), OFFLOAD, machine)


@pytest.mark.parametrize(
    ("made", "port", "remedy"),
    [
        (schedule(2000, 100), SOFTWARE, "plan with --margin 246"),
        (schedule(300, 100), SOFTWARE, "plan with --margin 246, which takes --cycle 765 at least"),
        (schedule(1000), tc.Port("eth0", 6, 0, tc.Mode.TXTIME, delta=122 * US), "plan with --delta 246"),
    ],
)
def test_apply_refuses_what_the_timers_of_this_machine_were_seen_not_to_keep(
    made: Any, port: tc.Port, remedy: str
) -> None:
    machine = Machine()
    machine.late = 122 * US + 1
    with pytest.raises(NotApplied) as refused:
        apply(made, port, machine)
    text = str(refused.value)
    assert text.startswith("one in a hundred of 500 timers here was more than 122 us late, and ")
    assert "timer that may be 123 us late" in text
    assert remedy in text
    # Better ones allow nothing more: they are not always seen.
    machine.late = 1
    with pytest.raises(NotApplied, match="may be 100 us late") as refused:
        apply(schedule(1000), SOFTWARE, machine)
    assert "timers here" not in str(refused.value)


def test_what_is_proposed_for_late_timers_is_taken_though_they_are_later_the_next_time() -> None:
    late = 130 * US
    (found,) = hazards(schedule(2000, 100), SOFTWARE, late)
    assert found.remedy == "plan with --margin 260"
    assert hazards(schedule(2000, 260), SOFTWARE, 2 * late) == ()
    # Of both windows.
    first, second = hazards(schedule(300, 100), SOFTWARE, late)
    assert first.remedy == second.remedy == "plan with --margin 260, which takes --cycle 807 at least"
    assert hazards(schedule(807, 260), SOFTWARE, 2 * late) == ()
    assert hazards(schedule(806, 260), SOFTWARE, 2 * late) != ()


def test_lateness_is_what_one_in_a_hundred_exceeds_and_is_not_told_of_a_few() -> None:
    assert lateness([*range(1000, 1495), *[10**6] * 5]) == Lateness(500, 1494)
    assert lateness([*range(1000, 1494), *[10**6] * 6]) == Lateness(500, 10**6)
    assert lateness([1] * 99) is None


def test_measuring_ends_at_its_limit() -> None:
    assert measure(limit=0.0) is None


def test_the_speed_of_a_device_that_is_not_there_or_has_none_is_unknown() -> None:
    assert Programs().speed("nothing0") is None
    assert Programs().speed("lo") is None


# The command

CONFIG = '[[topic]]\nid = 1\nname = "alarms"\nclass = "SQ"\npath = "slow"\n'


@pytest.fixture
def words(tmp_path: Any) -> list[str]:
    file = tmp_path / "x.toml"
    file.write_text(CONFIG)
    measures = ["--cycle", "1000", "--link", "1000", "--traffic", "alarms=2000/s:64"]
    return ["tsn", "plan", "-c", str(file), "-i", "eth0", *measures]


def test_the_plan_warns_before_anything_else(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("WARNING: the SQ window is open for 2,080 ns, ")
    assert "plan with --margin 100; --apply refuses it as it is" in lines[3]
    assert main([*words, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == 1
    assert main([*words, "--margin", "100"]) == 0
    assert "WARNING" not in capsys.readouterr().out


def test_apply_needs_the_flag_and_the_flag_needs_apply(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(carrying_out, "Programs", Machine)
    assert main([*words, "--apply"]) == 1
    assert "--margin 100" in capsys.readouterr().err
    with pytest.raises(AssertionError, match="was run"):
        main([*words, "--apply", "--anyway"])
    assert main([*words, "--anyway"]) == 2
    assert "--anyway: only with --apply" in capsys.readouterr().err
