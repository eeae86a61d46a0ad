"""What the doctor says of interfaces that no broker started here could use, by facts of the test's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tempos.doctor import Asked

pytest.importorskip("pyroute2")

from tempos_fastpath.doctor import interfaces
from tempos_fastpath.network import netdev, reading
from tempos_fastpath.network.facts import Facts, Interface

ETH = Interface(2, "eth0", "02:00:00:00:00:02", 1500, up=True, ethernet=True, takes_redirects=True)
BLUE = replace(ETH, index=3, name="blue", kind="vrf")
IN_BLUE = replace(ETH, index=4, name="eth1", master=3)
DUMMY = replace(ETH, index=5, name="dummy0", kind="dummy")
#: Both links have the address: each in its own network.
ADDRESSES = (("10.0.1.1", 2), ("10.0.1.1", 4), ("10.0.7.1", 5))


@pytest.mark.parametrize(
    ("bound", "asked", "said"),
    [
        (0, Asked(), {"eth0": True}),
        (3, Asked(), {"eth1": True}),
        (3, Asked(listen=("10.0.1.1",)), {"eth1": True}),
        (0, Asked(listen=("10.0.1.1",)), {"eth0": True}),
        (0, Asked(interfaces=("eth0", "eth1", "dummy0")), {"eth0": True, "eth1": False, "dummy0": False}),
    ],
)
def test_an_interface_of_another_network_is_none_of_this_broker_s(
    monkeypatch: pytest.MonkeyPatch, bound: int, asked: Asked, said: dict[str, bool]
) -> None:
    facts = Facts({each.index: each for each in (ETH, BLUE, IN_BLUE, DUMMY)}, ADDRESSES, {}, bound=bound)
    monkeypatch.setattr(reading, "read_facts", lambda: facts)
    monkeypatch.setattr(netdev, "xdp_features", lambda: dict.fromkeys(facts.interfaces, 0x7))
    monkeypatch.setattr(interfaces, "_foreign", lambda interface: "")
    found = {each.subject: each for each in interfaces.gather(asked) if each.check == "TD201"}
    assert {name: each.had for name, each in found.items()} == said
    if "dummy0" in said:
        assert "VRF blue" in found["eth1"].cause
        assert "nothing comes in by a device of the kind dummy" in found["dummy0"].cause


@pytest.mark.parametrize(
    ("asked", "cause"),
    [
        (
            Asked(listen=("10.0.9.1",)),
            "native mode: a program on eth0, which it stands on, takes its tagged frames",
        ),
        (Asked(listen=("10.0.9.1",), mode="generic"), "generic mode"),
        (Asked(interfaces=("eth0.9",)), "generic mode only: the driver has no XDP"),
    ],
)
def test_a_vlan_device_is_served_on_the_card_below(
    monkeypatch: pytest.MonkeyPatch, asked: Asked, cause: str
) -> None:
    card = replace(ETH, runs_native=True)
    device = replace(
        ETH, index=9, name="eth0.9", kind="vlan", link=2, vlan=9, takes_redirects=False, runs_native=False
    )
    facts = Facts({2: card, 9: device}, (("10.0.9.1", 9),), {})
    monkeypatch.setattr(reading, "read_facts", lambda: facts)
    monkeypatch.setattr(netdev, "xdp_features", lambda: {2: 0x7, 9: 0})
    monkeypatch.setattr(interfaces, "_foreign", lambda interface: "")
    (found,) = (each for each in interfaces.gather(asked) if each.check == "TD201")
    assert (found.subject, found.cause) == ("eth0.9", cause)
