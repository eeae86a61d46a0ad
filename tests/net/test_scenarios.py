"""Every other scenario, as small as it can be: it runs to its end, and its figures are complete.

What they measure means nothing at this size; what must be 0 is 0 at any.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from support.privileges import require_kernel, require_netns

from tempos_bench.nodes.installed import distribution
from tempos_bench.peers.directors import directors
from tempos_bench.runs import scenario
from tempos_bench.runs.run import Run

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

SMALL = {
    "redirect": ("repetitions=1", "rounds=1", "frames=20000"),
    "program-time": ("rounds=1", "frames=20000"),
    "round-trip": ("rounds=1", "round_trips=50"),
    "slow-path": ("rounds=1", "seconds=1"),
    "slow-path-gso": ("rounds=1", "seconds=1"),
    "fanout-many": ("rounds=1", "subscribers=70", "events=5"),
    "fanout-rate": ("repetitions=1", "rounds=1", "deliveries=16000", "slow_deliveries=1600"),
    "repair": ("rounds=1", "seconds=0.3", "losses=[0.01]", "shapes=[[1,1],[2,2]]", "rates=[2000,1000]"),
    "collector-churn": ("changes=30", "senders=200"),
    "confirmed-peers": ("rounds=1", "events=500", "paced=200"),
    "director": ("rounds=1", "seconds=0.2", 'cases=["4 copies, 512 B"]', "live_frames=20000",
                 "gone_rate=1000", "gone_seconds=0.5"),
    "journal-cost": ("rounds=1", "frames=20000", "slow_frames=500", "payloads=[64,1472]"),
    "loss": ("rounds=1", "seconds=0.1", "lowest=500", "highest=10000", "tolerance=0.9", "members=2"),
    "qos-slow": ("rounds=1", "seconds=0.4"),
    "qos-fast": ("rounds=1", "seconds=0.2"),
    "qos-rate": ("rounds=1", "seconds=0.1", "rates=[100,1000]"),
    "qos-workflows": ("rounds=1", "seconds=0.2"),
    "invoke-peers": ('paths=["fast"]', "rounds=1", "seconds=0.2", "burst=0.05"),
    "invoke-chaos": ("seconds=3", "checkpoint=3", "rest=1", "probes=5"),
    "webhooks": ("rounds=1", "seconds=0.1"),
    "workflows": ('paths=["slow path"]', "seconds=0.3", "rates=[100,1000]", "base=100"),
    "broker-kill": ("rate=5000", "kills=2"),
    "path-moves": ("rate=5000", "moves=6"),
    "lives": ("rounds=1",),
    "roaming": ("changes=6", "checkpoint=3"),
    "strangers": ("datagrams=10000",),
    "soak": ("seconds=12", "checkpoint=4", "sample=1", "minute=1", "life=5", "warm=1", "steady=4",
             "filled=3"),
    "loop-free": ("rounds=1", "topics=10", "seconds=0.5", "hosts=20", "settle=1", "rest=1", "full=30",
                  "joins=3"),
    "topics-scale": (
        "topics=[10,300]", "many=300", "kernel=[10,300]", "rounds=1", "seconds=0.5", "rate=500", "joins=2",
        "orders=2", "turns=1", "frames=2000",
    ),
    "watching": ("rounds=1", "seconds=0.3"),
    "topic-churn": ("rate=1000", "seconds=3", "warm=1"),
    "scale": (
        "members=[1,64]", "topics=[3]", "payloads=[256]", "publishers=[1]", "rounds=1", "frames=20000",
        "seconds=1", "joins=2",
    ),
}  # fmt: skip
#: Those that need what `make peers` installs.
PEERS = ("confirmed-peers", "invoke-peers", "webhooks")
#: Targets that hold however little is measured: what is counted.
COUNTED = (
    "lost",
    "not told",
    "doubled",
    "delivered",
    "members more",
    "members less",
    "larger than",
    "sent more than",
    "topics left",
    "descriptors left",
    "duplicated",
    "ledger",
    "not by",
    "epoch",
    "requests",
    "faults",
    "not exact",
    "not in the account",
    "not in the journal",
    "not confirmed",
    "not answered with 202",
    "at neither collector",
    "not whole",
    "not kept",
    "collector stayed",
)


#: Where tc makes folders for itself when it loads a program, and leaves them.
IPROUTE2 = Path("/sys/fs/bpf/tc")


@pytest.mark.parametrize("name", SMALL)
def test_a_small_run_has_every_figure(name: str) -> None:
    require_kernel()
    require_netns()
    if name == "director" and all(each.missing() for each in directors("")):
        pytest.skip("none of the programs that tempos is measured beside is there (make peers)")
    if name in PEERS and not (shutil.which("nats-server") and distribution("httptools")):
        pytest.skip("what tempos is measured beside is not installed (make peers)")
    theirs = IPROUTE2.exists()
    found = scenario.run(scenario.load(name, changes=SMALL[name]), Run())

    assert found.complete
    assert IPROUTE2.exists() == theirs, "a folder of programs is left behind"
    # At rates this low nothing bends.
    figures = [row for row in found.rows if not row.name.endswith("bends at")]
    # What tempos is held against is no measure where it heard nothing, on a starved machine.
    rates = [row for row in figures if row.unit.endswith("s/s") and not (row.value and row.value > 0)]
    silent = {row.name.split(": ")[-1].split(",")[0] for row in rates}
    beside = tuple(f" to {name.removesuffix(' forwarder')}" for name in silent - {"slow path"})
    figures = [row for row in figures if not row.name.split(",")[0].endswith(beside)]
    figures = [row for row in figures if row.name not in silent or not row.name.endswith(" forwarder")]
    assert [row.name for row in figures if row.value is None or not math.isfinite(row.value)] == []
    rest = [row for row in found.rows if row.target and not row.name.endswith("/s")]
    counted = [row for row in rest if any(word in row.name for word in COUNTED)]
    assert [(row.name, row.value) for row in counted if not row.met] == [], found.notes
