"""Putting a schedule on an interface: what is run and in which order; a failure leaves all as it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tempos import Quality
from tempos_broker.tsn import tc
from tempos_broker.tsn.apply import NotApplied, Result, apply, undo
from tempos_broker.tsn.lateness import Lateness
from tempos_broker.tsn.schedule import US, Flow, plan
from tempos_broker.tsn.wire import Link

ALARMS = [Flow("alarms", Quality.SQ, 7, 1000, 64)]
SCHEDULE = plan(ALARMS, Link(1000), 1000 * US, 100 * US)
SOFTWARE = tc.Port("eth0", 6, 0)
TXTIME = tc.Port("eth0", 6, 0, tc.Mode.TXTIME, delta=200_000)
UNKNOWN = "Error: Specified qdisc kind is unknown."
DEFAULT = {"kind": "mq", "handle": "0:", "root": True, "refcnt": 2}
CHILD = {"kind": "pfifo_fast", "handle": "0:", "parent": ":1"}


class Kernel:
    """A `tc` and an `ip` that keep qdiscs as a kernel does. ``lacks``: kinds it does not know.

    ``interrupt``: the kind at which the person at the keyboard presses Ctrl-C, after it had its effect.
    """

    def __init__(self, *, lacks: Sequence[str] = (), mtu: int = 1500, queues: int = 4) -> None:
        self.qdiscs: list[dict[str, Any]] = [DEFAULT, CHILD]
        self.lacks = lacks
        self.mtu, self.queues = mtu, queues
        self.driver: int | None = 1000
        self.interrupt = ""
        self.stuck = False
        self.ran: list[str] = []

    def run(self, command: Sequence[str]) -> Result:
        words = tuple(command)
        if words[:2] == ("ip", "-j"):
            return Result(
                0, json.dumps([{}, {"ifname": "eth0", "mtu": self.mtu, "num_tx_queues": self.queues}])
            )
        if words == ("tc", "-j", "qdisc", "show", "dev", "eth0"):
            return Result(0, json.dumps(self.qdiscs))
        self.ran.append(" ".join(words[2:]))
        assert words[:2] == ("tc", "qdisc")
        assert words[3:5] == ("dev", "eth0")
        return self._change(words[2], words[5:])

    def speed(self, interface: str) -> int | None:
        assert interface == "eth0"
        return self.driver

    def lateness(self) -> Lateness | None:
        return None

    def _change(self, action: str, words: tuple[str, ...]) -> Result:
        if action == "del":
            assert words == ("root", "handle", tc.HANDLE)
            if self.stuck:
                return Result(2, err="RTNETLINK answers: Device or resource busy")
            assert self.qdiscs[0]["handle"] == tc.HANDLE, "only ours"
            self.qdiscs = [DEFAULT, CHILD]
            return Result(0)
        kind = "taprio" if "taprio" in words else "etf"
        if kind in self.lacks:
            return Result(2, err=UNKNOWN)
        if kind == "taprio":
            assert action == "add"
            if self.qdiscs[0]["handle"] != "0:":
                return Result(2, err="Error: Exclusivity flag on, cannot modify.")
            self.qdiscs = [{"kind": "taprio", "handle": tc.HANDLE, "root": True}]
        else:
            assert self.qdiscs[0]["handle"] == tc.HANDLE, "the parent first"
            self.qdiscs.append({"kind": "etf", "handle": "8001:", "parent": f"{tc.HANDLE}1"})
        if kind == self.interrupt:
            raise KeyboardInterrupt
        return Result(0)


@pytest.mark.parametrize("port", [SOFTWARE, TXTIME])
def test_the_commands_of_the_plan_are_run_and_can_be_undone(port: tc.Port) -> None:
    kernel = Kernel()
    assert apply(SCHEDULE, port, kernel) == tc.commands(SCHEDULE, port)
    assert kernel.ran == [" ".join(command[2:]) for command in tc.commands(SCHEDULE, port)]
    assert kernel.qdiscs[0]["kind"] == "taprio"
    with pytest.raises(NotApplied, match=r"a schedule that was put there before.*nothing was changed"):
        apply(SCHEDULE, port, kernel)
    assert undo(port, kernel) == (tc.removal(port),)
    assert kernel.qdiscs == [DEFAULT, CHILD]
    with pytest.raises(
        NotApplied, match="no schedule of tempos, its root qdisc is mq 0:; nothing was changed"
    ):
        undo(port, kernel)


def test_a_kernel_without_taprio_is_told_and_left_as_it_is() -> None:
    kernel = Kernel(lacks=["taprio", "etf"])
    with pytest.raises(NotApplied) as refused:
        apply(SCHEDULE, SOFTWARE, kernel)
    assert UNKNOWN in str(refused.value)
    assert "CONFIG_NET_SCH_TAPRIO" in str(refused.value)
    assert str(refused.value).endswith("; nothing was changed")
    assert kernel.qdiscs == [DEFAULT, CHILD]
    assert len(kernel.ran) == 1, "nothing to take back"


def test_what_was_done_before_a_failure_is_undone() -> None:
    kernel = Kernel(lacks=["etf"])
    with pytest.raises(NotApplied, match=r"etf.*failed: .*unknown.*; what was done before that was undone"):
        apply(SCHEDULE, TXTIME, kernel)
    assert kernel.qdiscs == [DEFAULT, CHILD]
    assert [each.split()[0] for each in kernel.ran] == ["add", "replace", "del"]


@pytest.mark.parametrize("kind", ["taprio", "etf"])
def test_an_interruption_leaves_nothing_behind(kind: str) -> None:
    kernel = Kernel()
    kernel.interrupt = kind
    with pytest.raises(KeyboardInterrupt):
        apply(SCHEDULE, TXTIME, kernel)
    assert kernel.qdiscs == [DEFAULT, CHILD]


def test_where_undoing_fails_too_it_says_what_to_run() -> None:
    kernel = Kernel(lacks=["etf"])
    kernel.stuck = True
    with pytest.raises(
        NotApplied, match=r"could not be undone .*busy.*: run `tc qdisc del dev eth0 root handle 7e50:`"
    ):
        apply(SCHEDULE, TXTIME, kernel)


def test_what_somebody_else_set_up_is_left_alone() -> None:
    kernel = Kernel()
    theirs = {"kind": "taprio", "handle": "100:", "root": True}
    kernel.qdiscs = [theirs]
    for action in (lambda: apply(SCHEDULE, SOFTWARE, kernel), lambda: undo(SOFTWARE, kernel)):
        with pytest.raises(NotApplied, match=r"taprio 100:.*nothing was changed"):
            action()
    assert kernel.qdiscs == [theirs]
    assert not kernel.ran


class Overtaken(Kernel):
    """Somebody sets up a schedule with the same handle between our look and our command."""

    def _change(self, action: str, words: tuple[str, ...]) -> Result:
        self.qdiscs = [{"kind": "taprio", "handle": tc.HANDLE, "root": True}]
        return super()._change(action, words)


def test_a_schedule_that_another_put_there_meanwhile_is_not_rolled_back() -> None:
    kernel = Overtaken()
    with pytest.raises(NotApplied, match=r"Exclusivity flag on.*nothing was changed"):
        apply(SCHEDULE, SOFTWARE, kernel)
    assert [each.split()[0] for each in kernel.ran] == ["add"]


@pytest.mark.parametrize(
    ("kernel", "port", "said"),
    [
        (
            Kernel(mtu=9000),
            SOFTWARE,
            r"an MTU of 9,000: frames may be longer than the guard band.*--mtu 9000",
        ),
        (Kernel(queues=1), SOFTWARE, r"1 transmit queue\(s\), the plan needs 2"),
        (Kernel(queues=1), TXTIME, r"1 transmit queue\(s\), the plan needs 2"),
        (Kernel(queues=4), tc.Port("eth0", 6, 0, queues=5), r"4 transmit queue\(s\), the plan needs 5"),
    ],
)
def test_an_interface_that_the_plan_was_not_made_for_is_refused(
    kernel: Kernel, port: tc.Port, said: str
) -> None:
    with pytest.raises(NotApplied, match=said):
        apply(SCHEDULE, port, kernel)
    assert not kernel.ran


class Babbling:
    """A `tc` that answers what nobody can read."""

    def run(self, command: Sequence[str]) -> Result:
        return Result(0, "qdisc mq 0: root")


def test_an_answer_that_is_no_json_is_told() -> None:
    with pytest.raises(NotApplied, match=r"says something that cannot be understood: 'qdisc mq 0: root'"):
        undo(SOFTWARE, Babbling())
