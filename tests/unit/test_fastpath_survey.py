"""Which interfaces take redirected frames, where the kernel does not say, or says what does not hold."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from tempos_fastpath.network.facts import Facts, Interface, Way
from tempos_fastpath.network.kernel import Kernel
from tempos_fastpath.network.survey import AGAIN, LONGEST, Survey
from tempos_fastpath.network.trial import Verdict

EGRESS = Interface(2, "eth1", "02:00:00:00:00:02", 1500, True, True, None, "veth")
OTHER = Interface(3, "eth2", "02:00:00:00:00:03", 1500, True, True, None)
YES, NO = Verdict(True), Verdict(False, "ENXIO")


class Lab:
    """A survey whose trials and clock are the test's."""

    def __init__(self, verdict: Verdict, egress: Interface = EGRESS) -> None:
        self.now = 1000.0
        self.verdict = verdict
        self.trials: list[str] = []
        self.egress = egress
        self._survey = Survey(Kernel(try_redirect=self._try), lambda: self.now)

    def look(self, refused: str = "", *, native: bool = True) -> Verdict:
        ways = {("10.0.2.2", None): Way(2, "10.0.2.2")}
        facts = Facts({2: self.egress, 3: OTHER}, (), ways)  # type: ignore[arg-type]
        found = self._survey.complete(facts, native=native, refused={2: refused} if refused else {})
        assert found.interfaces[3] is OTHER, "no way leads there"
        assert replace(found.interfaces[2], takes_redirects=None, redirects_why="") == replace(
            self.egress, takes_redirects=None
        )
        return Verdict(found.interfaces[2].takes_redirects, found.interfaces[2].redirects_why)

    def told(self, takes: bool | None) -> None:
        self.egress = replace(self.egress, takes_redirects=takes)

    def _try(self, interface: Interface) -> Verdict:
        self.trials.append(interface.name)
        return self.verdict


def test_the_kernel_s_word_needs_no_trial() -> None:
    lab = Lab(NO)
    for takes in (True, False):
        lab.told(takes)
        assert lab.look() == Verdict(takes)
    assert not lab.trials


def test_generic_mode_asks_nobody() -> None:
    lab = Lab(NO)
    assert lab.look(native=False) == Verdict(None)
    assert not lab.trials


def test_what_took_a_frame_is_believed_until_it_changes() -> None:
    lab = Lab(YES)
    for _ in range(3):
        assert lab.look() == YES
        lab.now += 100
    assert len(lab.trials) == 1
    lab.egress, lab.verdict = replace(lab.egress, kind="bridge"), NO
    assert lab.look() == NO, "another device under the same name and index"


def test_what_took_none_is_tried_again_every_few_seconds_and_when_it_changes() -> None:
    lab = Lab(NO)
    assert lab.look() == NO
    lab.now += AGAIN / 2
    assert lab.look() == NO
    assert len(lab.trials) == 1
    lab.now += AGAIN
    lab.verdict = YES
    assert lab.look() == YES
    lab.verdict = NO
    lab.egress = replace(lab.egress, mtu=1400)
    assert lab.look() == NO
    lab.egress, lab.verdict = replace(lab.egress, mtu=1500), YES
    assert lab.look() == YES
    assert len(lab.trials) == 4


def test_what_cannot_be_tried_is_not_known() -> None:
    lab = Lab(Verdict(None, "no BTF"))
    assert lab.look() == Verdict(None, "no BTF")


@pytest.mark.parametrize("told", [True, None])
def test_who_refuses_events_gets_none_whatever_was_said(told: bool | None) -> None:
    lab = Lab(YES)
    lab.told(told)
    assert lab.look() == YES
    tried = len(lab.trials)
    assert lab.look("ENXIO") == Verdict(False, "it refused frames (ENXIO)")
    lab.now += AGAIN / 2
    assert lab.look() == Verdict(False, "it refused frames (ENXIO)")
    assert len(lab.trials) == tried, "it is left alone"
    lab.now += AGAIN
    assert lab.look() == YES
    assert len(lab.trials) == tried + 1


def test_who_refused_events_while_it_was_down_is_believed_once_it_is_up() -> None:
    lab = Lab(YES)
    assert lab.look() == YES
    lab.egress = replace(lab.egress, up=False)
    lab.look("ENETDOWN")
    lab.egress = replace(lab.egress, up=True)
    assert lab.look() == YES


def test_who_refused_events_and_was_down_in_between_is_believed_until_it_refuses_more() -> None:
    """A look that comes late finds it up again, and what was lost while it was down."""
    lab = Lab(YES)
    lab.told(True)
    assert lab.look() == YES
    lab.egress = replace(lab.egress, flaps=lab.egress.flaps + 2)
    assert lab.look("ENXIO") == YES
    assert lab.look("ENXIO") == Verdict(False, "it refused frames (ENXIO)")


def test_who_takes_trials_and_no_events_waits_longer_each_time() -> None:
    lab = Lab(YES)
    lab.told(True)
    lab.look()
    waits = []
    for _ in range(7):
        lab.look("ENXIO")
        began = lab.now
        while not lab.look().takes:
            lab.now += 1
        waits.append(lab.now - began)
    assert waits == [AGAIN, 2 * AGAIN, 4 * AGAIN, 8 * AGAIN, 16 * AGAIN, LONGEST, LONGEST]
    lab.now += 2 * LONGEST
    lab.look("ENXIO")
    lab.now += AGAIN
    assert lab.look() == YES, "it was well for long"


def test_a_change_of_who_refused_is_looked_at_at_once() -> None:
    lab = Lab(YES)
    lab.look()
    lab.look("ENOTSUP")
    lab.egress = replace(lab.egress, mac="02:00:00:00:00:77")
    assert lab.look() == YES


def test_who_refused_and_cannot_be_tried_waits_for_a_change() -> None:
    lab = Lab(Verdict(None, "no BTF"))
    lab.told(True)
    lab.look()
    assert lab.look("ENXIO") == Verdict(False, "it refused frames (ENXIO)")
    lab.now += 1000
    assert lab.look().takes is False
    lab.egress = replace(lab.egress, strips_tags=True)
    assert lab.look().takes is True


def test_the_kernel_s_no_ends_all_doubt() -> None:
    lab = Lab(NO)
    lab.told(True)
    lab.look("ENXIO")
    lab.told(False)
    assert lab.look() == Verdict(False)
    lab.told(True)
    assert lab.look() == Verdict(True), "the peer has GRO again"


def test_each_change_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lab = Lab(NO)
    for _ in range(3):
        lab.look()
        lab.now += AGAIN
    lab.verdict = YES
    for _ in range(2):
        lab.look()
    assert [record.getMessage() for record in caplog.records] == [
        "eth1 takes no redirected frames (ENXIO): what leaves by it goes by the slow path until it does",
        "eth1 takes redirected frames again",
    ]
