"""The SQ worker beside a fast path: both draw the same tickets, the kernel chooses the socket."""

from __future__ import annotations

import os
import signal
import time

import pytest
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT

from tempos import DATA_PORT, Overflow, Path, PathPolicy, Quality, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.legs import Legs, beyond
from tempos_bench.nodes.topology import build

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

STRICT = Topic(id=7, name="events", quality=Quality.SQ)


def worker_of(broker: Broker) -> dict[str, object]:
    return dict(broker.status()["quality"]["worker"])


def test_moves_between_the_paths_and_kills_of_the_worker_leave_an_exact_account() -> None:
    require_netns()
    require_kernel()
    moves = 40
    quality = {"worker_sq": True, "priority_sq": 0}
    with (
        build("straight") as topology,
        Broker(topology.broker, {STRICT: ()}, mode="native", quality=quality) as broker,
    ):
        assert broker.status()["quality"]["sockets"] == "ebpf"
        assert worker_of(broker)["state"] == "serving"
        crowd = topology.subscriber.role(
            "library_members", "--address", topology.broker.address, "--topic", STRICT.name,
            "--rate", 0, ready=True, talk=True,
        )  # fmt: skip
        broker.wait_path(STRICT.name, Path.FAST)
        legs = Legs(topology)
        # Until told to stop, however long all of it takes.
        publisher = topology.publisher.role(
            "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", STRICT.id,
            "--count", 10_000_000, "--rate", 10_000,
        )  # fmt: skip
        broker.wait_received(STRICT.name, 1)
        kills = 0
        number = 0
        # A worker that was killed is there again after a while, however quick the moves are.
        while number < moves or kills < 2:
            policy = ("slow", "fast")[number % 2]
            broker.ask("POST", "/v1/topics/events/path", {"policy": policy})
            worker = worker_of(broker)
            if policy == "slow" and number >= 10 * kills and worker["state"] == "serving":
                # While the slow path serves.
                os.kill(int(str(worker["pid"])), signal.SIGKILL)
                kills += 1
            number += 1
        broker.wait_received(STRICT.name, broker.topic(STRICT.name).received + 2000)
        publisher.terminate()
        sent = publisher.result(LIMIT)
        assert sent["refused"] == 0
        events = sent["sent"]
        got = crowd.ask({"sent": events}, limit=LIMIT)
        end = time.monotonic() + LIMIT
        # As long as nobody has noticed that the last one was killed it counts as serving.
        while (worker_of(broker)["started"], worker_of(broker)["state"]) != (kills + 1, "serving"):
            assert time.monotonic() < end, worker_of(broker)
            time.sleep(0.02)
        ledger = broker.ask("GET", "/v1/ledger/events")
        unattributed = broker.ask("GET", "/v1/ledger")["unattributed"]
        unread = unattributed.get("worker_lost", 0)
        overrun = unattributed.get("socket_overrun", 0)
        worker = worker_of(broker)
        assert worker["started"] == kills + 1
        dropped = legs.dropped()
        broker.stop()
    assert ledger["balanced"], ledger
    (group,) = ledger["groups"]
    held = ledger["refused"].get("worker_lost", 0)
    # Of what a killed one had not looked at yet nobody knows the topic.
    unknown = unread + overrun
    assert beyond(events - ledger["received"] - unknown, dropped.first) == 0, (ledger, unattributed, dropped)
    assert ledger["received"] == ledger["fast"] + ledger["slow"] + held
    assert group["tickets"] == ledger["received"] - held == group["delivered"] + group["lost"]
    assert (got["distinct"], got["doubled"]) == (group["delivered"], 0), got
    lost = group["lost"] + held + unread
    # What one is killed over while it hands copies to the kernel, nobody but the member can tell.
    assert 0 <= beyond(lost - worker["lost"], dropped.last) <= worker["unsent"], (lost, worker, dropped)
    assert worker["lost"] <= kills * 64
    assert min(ledger["fast"], ledger["slow"]) > 1000, ledger


def test_a_rate_holds_for_both_processes_and_the_kernel_together() -> None:
    """The worker takes from the kernel's own bucket, and what it refuses is in the account."""
    require_netns()
    require_kernel()
    limited = Topic(
        id=40_007, name="events", quality=Quality.SQ, policy=PathPolicy.SLOW,
        rate=1000, burst=100, overflow=Overflow.DROP,
    )  # fmt: skip
    events, rate = 20_000, 10_000
    with (
        build("straight") as topology,
        Broker(
            topology.broker, {limited: ()}, mode="native", quality={"worker_sq": True, "priority_sq": 0}
        ) as broker,
    ):
        crowd = topology.subscriber.role(
            "library_members", "--address", topology.broker.address, "--topic", limited.name,
            "--rate", 0, ready=True, talk=True,
        )  # fmt: skip
        legs = Legs(topology)
        began = time.monotonic()
        publisher = topology.publisher.role(
            "demo.publish", "--to", topology.broker.address, "--topic", limited.name,
            "--paced", events, "--rate", rate, "--burst", 0,
        )  # fmt: skip
        assert publisher.result(LIMIT) == {"sent": events, "refused": 0}
        took = time.monotonic() - began
        ledger = broker.ask("GET", "/v1/ledger/events")
        overrun = broker.ask("GET", "/v1/ledger")["unattributed"].get("socket_overrun", 0)
        got = crowd.ask({"sent": ledger["slow"]}, limit=LIMIT)
        dropped = legs.dropped()
        broker.stop()
    assert ledger["balanced"], ledger
    assert beyond(events - ledger["received"] - overrun, dropped.first) == 0, (ledger, overrun, dropped)
    assert ledger["refused"] == {"over_rate": ledger["received"] - ledger["slow"]}
    assert beyond(ledger["slow"] - got["distinct"], dropped.last) == 0, (got, ledger, dropped)
    assert ledger["slow"] <= limited.burst + limited.rate * took
    # The publisher alone takes two seconds.
    assert ledger["slow"] >= limited.rate * 1.5
