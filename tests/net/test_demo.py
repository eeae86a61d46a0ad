"""The demo as a person runs it: the whole, and where nothing is allowed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from support.privileges import require_kernel, require_netns

from tempos_bench.nodes.topology import build

pytestmark = pytest.mark.netns

COMMAND = (sys.executable, "-m", "tempos_bench", "demo", "--json")
LIMIT = 90.0


def check(report: dict[str, Any], ways: list[str]) -> None:
    assert [row["way"]["name"] for row in report["rows"]] == ways
    for row in report["rows"]:
        assert row["sent"] == row["received"] > 0, row
        assert row["lost"] == 0
        assert row["ledger_closed"], row
        assert all(row["latency_us"][p] > 0 for p in ("p50", "p90", "p99")), row


def test_every_path_carries_every_event() -> None:
    require_netns()
    require_kernel()
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=LIMIT, check=False)

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    check(report, ["direct, no broker", "slow path", "fast path, XDP generic", "fast path, XDP native"])
    assert report["missing"] is None
    slow, generic, native = (row["story"] for row in report["rows"][1:])
    assert slow.startswith("22,000 by the slow path of 22,000 received")
    assert "by the fast path" in generic
    assert "XDP generic" in generic
    assert native.startswith("22,000 by the fast path of 22,000 received")
    assert "XDP native" in native


def test_without_privileges_it_shows_the_slow_path_on_loopback_and_says_what_is_missing() -> None:
    require_netns()
    with build("straight") as topology:
        # A node's own loopback, so that no other program on this machine holds the ports.
        powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
        program = topology.publisher.start((*powerless, *COMMAND))
        report = program.result(LIMIT)

    check(report, ["direct, no broker", "slow path"])
    assert "namespace" in report["missing"]
