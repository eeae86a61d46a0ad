"""What one snapshot of the network says of another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tempos_fastpath.network.facts import Destination, Facts, Interface, Way

ETH = Interface(2, "eth0", "02:00:00:00:00:02", 1500, up=True, ethernet=True, takes_redirects=True)
NEAR, FAR, NEW = Destination("10.0.0.5"), Destination("10.9.9.9"), Destination("10.0.0.6")
GATEWAY = "10.0.0.254"
BEFORE = Facts(
    interfaces={2: ETH},
    addresses=(("10.0.0.1", 2),),
    ways={NEAR: Way(2, NEAR.ip), FAR: Way(2, GATEWAY)},
    neighbours={(2, NEAR.ip): "02:00:00:00:00:05", (2, "10.0.0.77"): "02:00:00:00:00:77"},
)


def test_more_is_no_contradiction_and_less_is_none_where_nobody_asks_for_it() -> None:
    more = replace(
        BEFORE,
        ways={NEAR: BEFORE.ways[NEAR], NEW: Way(2, NEW.ip)},
        neighbours={(2, NEAR.ip): "02:00:00:00:00:05", (2, NEW.ip): "02:00:00:00:00:06"},
    )
    assert not more.contradicts(BEFORE)


def test_a_neighbour_on_no_way_is_no_news_whatever_becomes_of_him() -> None:
    assert BEFORE.holds(2, "10.0.0.77", "02:00:00:00:00:99")
    assert BEFORE.holds(2, NEAR.ip, "02:00:00:00:00:05")
    assert not BEFORE.holds(2, NEAR.ip, "")
    assert not BEFORE.holds(2, GATEWAY, "02:00:00:00:00:fe"), "he was not known"


@pytest.mark.parametrize(
    "change",
    [
        {"addresses": (("10.0.0.1", 2), ("10.0.0.2", 2))},
        {"interfaces": {2: replace(ETH, mtu=1400)}},
        {"interfaces": {}},
        {"ways": {**BEFORE.ways, FAR: Way(obstacle="no route to it")}},
        {"neighbours": {(2, NEAR.ip): "02:00:00:00:00:55"}},
        {"neighbours": {}},
        {"neighbours": {**BEFORE.neighbours, (2, GATEWAY): "02:00:00:00:00:fe"}},
        {"reverse_paths": {2: 1}},
    ],
    ids=lambda change: "_".join(change),
)
def test_what_a_route_may_rest_on_and_is_otherwise_contradicts(change: dict[str, object]) -> None:
    assert replace(BEFORE, **change).contradicts(BEFORE)  # type: ignore[arg-type]
