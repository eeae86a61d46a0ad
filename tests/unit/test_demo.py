"""What a row of the demo is called, and whether it shows what it was to show."""

from __future__ import annotations

import socket

import pytest

from tempos import Unavailable
from tempos_bench.demo import demo
from tempos_bench.demo.demo import WAYS, Outcome, as_text

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
