"""What a row of the demo is called, and whether it shows what it was to show."""

from __future__ import annotations

import asyncio
import socket
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tempos import Unavailable
from tempos_bench.demo import demo, subscribe, workflow
from tempos_bench.demo.demo import WAYS, Outcome, Way, as_text
from tempos_bench.nodes.node import Node, ProgramFailed

DIRECT, SLOW, GENERIC, NATIVE = WAYS
REASON = "XDP could be attached to no interface: eth0: the driver has no XDP"


def outcome(way: object, fast: int = 0, slow: int = 0, reason: str = REASON) -> Outcome:
    latency = {"p50": 1.0, "p90": 2.0, "p99": None}
    return Outcome(way, fast + slow, fast + slow, 1e5, latency, "a story", True, fast, slow, reason)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("way", "fast", "slow", "name", "taken"),
    [
        (DIRECT, 0, 0, "direct, no broker", True),
        (SLOW, 0, 22_000, "slow path", True),
        (SLOW, 1, 21_999, "slow path", False),
        (NATIVE, 22_000, 0, "fast path, XDP native", True),
        (GENERIC, 21_999, 1, "fast path, XDP generic, 1 slow", True),
        (NATIVE, 12_000, 10_000, "fast path, XDP native, 10,000 slow", False),
        (NATIVE, 0, 22_000, "slow path (not XDP native)", False),
        (NATIVE, 0, 0, "nothing (not XDP native)", False),
    ],
)
def test_a_row_is_named_for_what_carried_it(
    way: object, fast: int, slow: int, name: str, taken: bool
) -> None:
    found = outcome(way, fast, slow)
    assert (found.name, found.taken) == (name, taken)


def test_a_way_that_was_not_taken_is_told_with_its_reason_once() -> None:
    text = as_text([outcome(SLOW, 0, 9, "as configured"), outcome(NATIVE, 0, 9)], None)
    assert text.count(REASON) == 1
    assert text.splitlines()[-1] == f"NOT SHOWN: fast path, XDP native: {REASON}"
    assert "a story (as configured)" in text
    assert "NOT SHOWN" not in as_text([outcome(NATIVE, 9, 0)], None)


@pytest.mark.parametrize(
    ("kind", "name"), [(socket.SOCK_STREAM, "API_PORT"), (socket.SOCK_DGRAM, "DATA_PORT")]
)
def test_over_loopback_it_says_which_port_a_broker_that_runs_has(
    kind: socket.SocketKind, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for port in ("API_PORT", "DATA_PORT", "CONTROL_PORT"):
        monkeypatch.setattr(demo, port, 0)
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        with demo.nodes("no root"):
            pass
        monkeypatch.setattr(demo, name, port)
        with (
            pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{port}, .*already in use\. End the broker"),
            demo.nodes("no root"),
        ):
            pass


class Caller:
    """What makes the workflow's calls, by what it prints; ``limits``: how long each line was waited for."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.limits = [*lines], list[float]()

    def role(self, module: str, *words: object, cpu: int) -> Caller:
        assert module == "demo.call"
        return self

    def wait_line(self, start: str = "", limit: float = 30.0) -> str:
        self.limits.append(limit)
        if not self.lines:
            raise ProgramFailed(f"did not print within {limit:g} s")
        return self.lines.pop(0)


def test_calls_are_waited_for_as_long_as_they_go_on() -> None:
    caller = Caller("called 0", "called 20", '{"calls": 40}')
    assert workflow._calls(cast("Node", caller)) == {"calls": 40}
    assert len(caller.limits) == 3
    with pytest.raises(ProgramFailed):
        workflow._calls(cast("Node", Caller("called 0")))


def test_a_workflow_that_comes_to_no_end_takes_nothing_from_what_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def call(way: Way, folder: Path, three: object) -> workflow.Called:
        if way.mode != "off":
            raise ProgramFailed("the trigger did not print within 30 s")
        return workflow.Called(
            outcome(way, slow=600), 600, 600, {}, 200.0, {"p50": 9.0, "p90": 9.0, "p99": 9.0}
        )

    monkeypatch.setattr(workflow, "nodes", lambda lacking: nullcontext((None, None, None)))
    monkeypatch.setattr(workflow, "lacking_packages", lambda extra: [])
    monkeypatch.setattr(workflow, "_call", call)
    found, why = workflow.run(lambda text: None, None)
    assert [each.answered for each in found] == [600]
    assert why is not None
    assert why.endswith(": the trigger did not print within 30 s")
    told = workflow.as_text(found, why)
    assert "a story" in told
    assert told.endswith(f"NOT SHOWN: a workflow: {why}")


class Silent:
    """A subscriber to which some events come; ``limits``: how long each was waited for."""

    def __init__(self, events: int) -> None:
        self.events, self.limits = events, list[float]()
        self.stats = SimpleNamespace(missed=0, overruns=0)

    async def __aenter__(self) -> Silent:
        return self

    async def __aexit__(self, *of: object) -> None:
        pass

    async def wait(self, limit: float) -> bool:
        self.limits.append(limit)
        self.events -= 1
        return self.events >= 0

    def poll(self) -> None:
        return None


def test_on_a_slow_machine_a_subscriber_waits_as_long_as_everything_takes_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = Silent(events=1)
    monkeypatch.setattr(subscribe, "patience", lambda seconds: 6 * seconds)
    monkeypatch.setattr(subscribe, "Subscriber", lambda *where, **how: silent)
    given = Namespace(expect=9, topic_id=None, address="", topic="", group="", port=0, first=20.0, idle=10.0,
                      stay=False)  # fmt: skip
    asyncio.run(subscribe.subscribe(given))
    assert silent.limits == [120.0, 60.0]
    assert '"received": 0' in capsys.readouterr().out
