"""By which interfaces events come in that no program sees, by the devices and what stands on what."""

from __future__ import annotations

from tempos._abi import MAX_LISTEN
from tempos_fastpath.network.entrances import Entrances
from tempos_fastpath.network.facts import Facts, Interface

A, B = "10.0.1.1", "10.0.2.1"
NONE = "it is not one of fastpath.interfaces"


def device(index: int, name: str, kind: str = "", *, link: int = 0, master: int = 0, up: bool = True,
           ethernet: bool = True) -> Interface:  # fmt: skip
    return Interface(index, name, "02:00:00:00:00:01", 1500, up, ethernet, True, kind, link, master)


def unseen(addresses: dict[str, int], carrying: set[int], *devices: Interface, named: bool = True,
           listen: tuple[str, ...] = (A, B),
           refused: dict[int, str] | None = None) -> dict[str, str]:  # fmt: skip
    facts = Facts({each.index: each for each in devices}, tuple(addresses.items()), {})
    found = Entrances(listen, named).unseen(facts, carrying, refused or {})
    assert all(each.mode == "none" for each in found)
    return {each.name: each.reason for each in found}


def test_only_what_carries_an_address_and_no_program_is_named() -> None:
    cards = device(2, "eth0"), device(3, "eth1"), device(4, "eth2"), device(5, "eth3", up=False)
    addresses = {A: 2, B: 3, "10.0.3.1": 4, "10.0.4.1": 5}
    assert unseen(addresses, {2, 3}, *cards) == {}
    assert unseen(addresses, {2}, *cards) == {"eth1": NONE}
    assert unseen(addresses, {2}, *cards, refused={3: "busy"}) == {"eth1": "busy"}
    everywhere = unseen(addresses, {2, 3}, *cards, listen=("0.0.0.0",), named=False)
    assert list(everywhere) == ["eth2"], "what is down lets nothing in"


def test_an_address_that_the_program_does_not_know_is_named_with_its_interface() -> None:
    cards = device(2, "eth0"), device(3, "eth1")
    many = {f"10.0.1.{number}": 2 for number in range(1, MAX_LISTEN + 1)}
    assert unseen({**many, B: 3}, {2, 3}, *cards, listen=("0.0.0.0",)) == {
        "eth1": f"the program does not know {B}"
    }


def test_who_answers_for_an_address_of_another_is_named_unless_it_has_a_program() -> None:
    facts = Facts(
        {2: device(2, "eth0"), 3: device(3, "eth1"), 4: device(4, "eth2")},
        ((A, 2), ("10.0.1.3", 3), ("10.0.1.4", 4)),
        {},
        answers={3: (A, "10.0.1.4"), 4: ("10.0.1.3",)},
    )
    (told,) = Entrances((A,), named=False).unseen(facts, {2}, {})
    assert told.name == "eth1"
    assert told.reason == f"it answers for {A} as well; fastpath.interfaces may name it"
    assert not Entrances((A,), named=True).unseen(facts, {2, 3}, {})


def test_tunnels_and_loopback() -> None:
    tunnel, own = device(3, "wg0", "wireguard", ethernet=False), device(1, "lo", ethernet=False)
    own = Interface(own.index, "lo", None, 65536, True, ethernet=False, takes_redirects=None, loopback=True)
    vrf = device(4, "blue", "vrf")
    found = unseen({A: 3, "127.0.0.1": 1, "127.0.0.2": 4}, {2}, device(2, "eth0"), tunnel, own, vrf,
                   listen=("0.0.0.0",), named=False)  # fmt: skip
    assert found == {"wg0": "it is not an Ethernet interface"}


def test_a_bridge_is_seen_at_itself_or_at_all_its_ports() -> None:
    devices = device(2, "br0", "bridge"), device(3, "eth0", master=2), device(4, "eth1", master=2)
    assert unseen({A: 2}, {2}, *devices) == {}
    assert unseen({A: 2}, {3, 4}, *devices) == {}
    assert unseen({A: 2}, {3}, *devices) == {"eth1": "a port of br0 without a program"}
    assert unseen({A: 2}, {9}, *devices, refused={2: "not supported"}) == {"br0": "not supported"}


def test_a_macvlan_is_seen_at_what_it_stands_on_and_only_in_part_at_itself() -> None:
    devices = device(2, "eth0"), device(3, "over0", "macvlan", link=2)
    assert unseen({A: 3}, {2}, *devices) == {}
    assert list(unseen({A: 3}, {9}, *devices)) == ["over0"]
    in_part = unseen({A: 3}, {3}, *devices)
    assert list(in_part) == ["eth0"], "it answers for the address of what stands on it"
    assert f"answers for {A} of over0" in in_part["eth0"]
    assert unseen({A: 3}, {3}, device(3, "over0", "macvlan")) == {}, "it stands in another namespace"


def test_a_vlan_is_not_seen_below() -> None:
    devices = device(2, "eth0"), device(3, "eth0.5", "vlan", link=2)
    assert unseen({A: 3}, {2}, *devices) == {"eth0.5": NONE}
    assert unseen({A: 3}, {3}, *devices) == {}


def test_a_dummy_is_named_only_where_it_stands_in_for_who_should_be() -> None:
    devices = device(2, "eth0"), device(3, "dummy0", "dummy")
    why = "nothing comes in by a device of the kind dummy; ..."
    assert unseen({A: 3, B: 2}, {2}, *devices, named=False, refused={3: why}) == {"dummy0": why}
    assert unseen({A: 3, B: 2}, {2}, *devices) == {}, "the interfaces that events come in by are named"
