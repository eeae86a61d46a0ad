"""What a join costs the fast path: requests for what is new, however many members there are already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from support.watched import in_broker

from tempos import Group, Member, Path, Route, Topic
from tempos_bench.nodes.topology import Topology
from tempos_bpf.maps import Map
from tempos_fastpath import offload as module
from tempos_fastpath import plan
from tempos_fastpath.network.netlink import Netlink
from tempos_fastpath.offload import Offload

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

TOPIC = Topic(7, "machines")
#: Members whose MACs are given: no neighbour tells of itself while requests are counted.
MEMBERS = tuple(Member(f"10.0.2.{3 + number}", 9001, "02:00:00:00:00:99") for number in range(201))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Requests of each kind, whole tables, looks at the kernel's counters, and members' ways judged."""
    # No look at everything because it is time.
    monkeypatch.setattr(module, "_REFRESH", 3600.0)
    found: Counter[str] = Counter()
    ask, neighbours, routes, sums = Netlink.ask, Netlink.neighbours, Netlink.routes, Map.sum_rows

    def asking(netlink: Netlink, kind: int, flags: int, bodies: Sequence[bytes]) -> Iterator[bytes | int]:
        found["requests"] += len(bodies)
        return ask(netlink, kind, flags, bodies)

    def dumping(netlink: Netlink) -> Any:
        found["tables"] += 1
        return neighbours(netlink)

    def routing(netlink: Netlink, wanted: Sequence[tuple[str, str | None]], **more: int) -> Any:
        found["ways"] += len(wanted)
        return routes(netlink, wanted, **more)

    def summing(rows: Map, *args: int) -> memoryview:
        found["looks"] += 1
        return sums(rows, *args)

    leg_to = plan.leg_to

    def judging(member: Member, *it: Any, **how: Any) -> Any:
        found["judged"] += 1
        return leg_to(member, *it, **how)

    monkeypatch.setattr(plan, "leg_to", judging)
    monkeypatch.setattr(Netlink, "ask", asking)
    monkeypatch.setattr(Netlink, "neighbours", dumping)
    monkeypatch.setattr(Netlink, "routes", routing)
    monkeypatch.setattr(Map, "sum_rows", summing)
    return found


def route(members: Iterable[Member], epoch: int) -> Route:
    return Route(TOPIC, epoch, (Group("g", tuple(members)),))


@pytest.mark.parametrize("members", [10, 200])
def test_a_join_asks_for_the_new_member_alone(topology: Topology, asked: Counter[str], members: int) -> None:
    async def scenario(offload: Offload) -> None:
        assert (await offload.install(route(MEMBERS[:members], 1))).path is Path.FAST
        asked.clear()
        assert (await offload.install(route(MEMBERS[: members + 1], 2))).path is Path.FAST
        # The way to it, and who it is there.
        assert asked == {"ways": 1, "requests": 2, "judged": 1}
        asked.clear()
        assert (await offload.install(route(MEMBERS[:members], 3))).path is Path.FAST
        assert not asked, "nobody is new"
        offload.counters([TOPIC.id])
        offload.counters(range(1, members + 1))
        assert asked == {"looks": 2}, "topics whose numbers follow each other are one look"

    in_broker(topology, scenario, mode="native")
