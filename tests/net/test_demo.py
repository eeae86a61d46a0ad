"""The demo as a person runs it: the whole, and where nothing is allowed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from support.privileges import require_kernel, require_netns
from support.refused import REASON, refused_fast_path

from tempos_bench.nodes.topology import build

pytestmark = pytest.mark.netns

COMMAND = (sys.executable, "-m", "tempos_bench", "demo", "--json")
LIMIT = 180.0


def check(report: dict[str, Any], ways: list[str]) -> None:
    assert [row["name"] for row in report["rows"]] == ways
    for row in report["rows"]:
        assert row["sent"] == row["received"] > 0, row
        assert row["lost"] == 0
        assert row["ledger_closed"], row
        assert all(row["latency_us"][p] > 0 for p in ("p50", "p90", "p99")), row


def check_workflows(report: dict[str, Any], ways: list[str]) -> None:
    assert report["no_workflow"] is None
    assert [row["name"] for row in report["workflows"]] == ways
    for row in report["workflows"]:
        assert row["calls"] == row["answered"] > 0, row
        assert row["sound"], row


def test_every_path_carries_every_event() -> None:
    require_netns()
    require_kernel()
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=LIMIT, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    generic = report["rows"][2]["name"]
    assert generic.startswith("fast path, XDP generic"), (
        "a handful may be what only the slow path understands"
    )
    check(report, ["direct, no broker", "slow path", generic, "fast path, XDP native"])
    assert report["missing"] is None
    assert all(row["taken"] for row in report["rows"])
    slow, generic, native = report["rows"][1:]
    assert slow["story"].startswith("22,000 by the slow path of 22,000 received")
    assert generic["fast"] > generic["slow"]
    assert generic["reason"].startswith("XDP generic, ")
    assert native["story"].startswith("22,000 by the fast path of 22,000 received")
    assert native["reason"].startswith("XDP native, ")
    check_workflows(report, ["slow path", report["workflows"][1]["name"], "fast path, XDP native"])
    assert all(row["taken"] for row in report["workflows"])


def test_where_the_fast_path_cannot_be_had_no_row_and_no_exit_code_says_it_was() -> None:
    require_netns()
    require_kernel()
    with refused_fast_path():
        command = (*COMMAND[:-1], "--way", "generic", "--way", "native")
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)

    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert not [line for line in lines if line.startswith("fast path")]
    for mode in ("generic", "native"):
        assert [line for line in lines if line.startswith(f"slow path (not XDP {mode}) ")]
        (why,) = (line for line in lines if line.startswith(f"NOT SHOWN: fast path, XDP {mode}: "))
        assert why.count(REASON) == 1
        assert len(why) < 700
        assert [line for line in lines if line.startswith(f"NOT SHOWN: workflow, fast path, XDP {mode}: ")]
    assert len(lines) < 40, "and nothing of the verifier's log"


def test_without_privileges_it_shows_the_slow_path_on_loopback_and_says_what_is_missing() -> None:
    require_netns()
    with build("straight") as topology:
        # A node's own loopback, so that no other program on this machine holds the ports.
        powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
        program = topology.publisher.start((*powerless, *COMMAND))
        report = program.result(LIMIT)

    check(report, ["direct, no broker", "slow path"])
    check_workflows(report, ["slow path"])
    assert "namespace" in report["missing"]


def test_one_way_without_the_workflow_and_none_where_it_cannot_be_had() -> None:
    require_netns()
    command = (*COMMAND, "--way", "native", "--events-only")
    with build("straight") as topology:
        powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
        program = topology.publisher.start((*powerless, *command))
        assert program.wait(LIMIT) == 2
        assert "none of native can be had here" in program.output
    require_kernel()
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    check(report, ["fast path, XDP native"])
    assert report["workflows"] == []
    assert report["no_workflow"] is None
