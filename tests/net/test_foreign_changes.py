"""What is changed of topics by port while many senders send: nothing is lost, doubled, or told twice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import pytest
from support.features import NO_TCX, no_tcx
from support.privileges import require_kernel, require_netns
from support.waiting import until

from tempos import Framing, Group, GroupOptions, Member, Path, Pick, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.collectors import Collectors
from tempos_bench.measure.legs import Legs, beyond
from tempos_bench.nodes.topology import build

pytestmark = [pytest.mark.netns]

PORT, SENDERS = 2055, 42
FLOWS = Topic(300, "flows", framing=Framing.FOREIGN, ports=(PORT,))
PORTS = {"all": (7001, 7002), "some": (7011,), "others": (7021, 7022)}
#: Options by group, one file after the other, and how many of a round each group then has.
FILES: tuple[tuple[dict[str, dict[str, Any]], dict[str, int]], ...] = (
    ({"some": {"every": 7}, "others": {"keep": True}}, {"all": 42, "some": 6, "others": 42}),
    ({"all": {"keep": True}, "some": {"every": 3}}, {"all": 42, "some": 14, "others": 42}),
    ({"some": {"sources": ("192.0.2.0/24",)}, "others": {"every": 2}}, {"all": 42, "some": 0, "others": 21}),
    ({"all": {"down_after": 0.0}, "others": {"sources": ("10.0.0.0/8",), "every": 6, "keep": True}},
     {"all": 42, "some": 42, "others": 7}),
    ({}, {"all": 42, "some": 42, "others": 42}),
)  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "pick"),
    [("off", Pick.SOURCE_PORT), ("native", Pick.TURN), ("native", Pick.SOURCE_PORT), ("generic", Pick.TURN)],
)
def test_options_of_groups_change_by_the_file_under_traffic(
    mode: str, pick: Pick, tmp_path: FilePath
) -> None:
    require_netns()
    if mode != "off":
        require_kernel()
    if mode == "generic" and no_tcx():
        pytest.skip(NO_TCX)
    with build("straight") as topology, ExitStack() as stack:
        collectors = Collectors(topology, PORT, SENDERS, PORTS, whole=("all",))
        stack.callback(collectors.close)
        to = topology.subscriber.address
        groups = [Group(name, tuple(Member(to, port) for port in ports)) for name, ports in PORTS.items()]

        def topics(options: dict[str, dict[str, Any]]) -> dict[Topic, list[Group]]:
            given = tuple(GroupOptions(name, **each) for name, each in options.items())
            return {replace(FLOWS, pick=pick, groups=given): groups}

        # Who keeps no source in the file that it starts with has no socket for it later on.
        begin = topics({"others": {"keep": True}})
        broker = stack.enter_context(Broker(topology.broker, begin, mode=mode, file=tmp_path / "broker.toml"))
        path = Path.SLOW if mode == "off" else Path.FAST
        broker.wait_path("flows", path)
        legs = Legs(topology)
        with collectors.sending():
            for options, wanted in FILES * 3:
                changes = broker.reload(topics(options))
                assert changes
                assert all("options of group" in each for each in changes), changes
                broker.wait_path("flows", path)
                until(_has(collectors, collectors.after(), wanted), f"not as {options} say")
        dropped = legs.dropped()
        came = collectors.sent - dropped.first
        told = broker.wait_received("flows", came)
        assert told.received == came, dropped
        assert beyond(collectors.lost("all"), dropped.first + dropped.last) == 0, dropped
        assert (collectors.doubled, collectors.strange) == (dict.fromkeys(PORTS, 0), 0)
        assert (told.problems, told.refused) == ((), {})
        assert (told.slow if path is Path.FAST else told.fast) == 0
        for row in broker.entry("flows")["groups"]:
            assert row["tickets"] == came
            assert beyond(row["unknown"] - collectors.came[row["name"]], dropped.last) == 0, (row, dropped)
            assert row["unknown"] + row["filtered"] + row["sampled"] == came


def _has(collectors: Collectors, number: int, wanted: dict[str, int]) -> Callable[[], bool]:
    def holds() -> bool:
        return {name: sum(map(bool, rounds[number])) for name, rounds in collectors.got.items()} == wanted

    return holds
