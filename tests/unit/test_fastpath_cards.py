"""Where programs are attached for VLAN devices, as the network changes: on the card, or on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("pyroute2")

from tempos import Unavailable
from tempos_bpf.links import XdpMode
from tempos_fastpath import attach
from tempos_fastpath.attach import Programs
from tempos_fastpath.network.facts import Facts, Interface
from tempos_fastpath.network.gates import Gate
from tempos_fastpath.survival.ownership import Identity

MAC = "02:00:00:00:00:02"
CARD = Interface(2, "eth0", MAC, 1500, up=True, ethernet=True, takes_redirects=True, runs_native=True)
DEVICE = Interface(
    10, "eth0.10", MAC, 1500, up=True, ethernet=True, takes_redirects=False, kind="vlan", link=2, vlan=10
)


def network(*interfaces: Interface) -> Facts:
    here = {each.index: each for each in interfaces}
    addresses = tuple(pair for pair in (("10.0.10.1", 10), ("10.0.1.1", 20)) if pair[1] in here)
    return Facts(here, addresses, {}, reverse_paths=dict.fromkeys(here, 0))


FACTS = network(CARD, DEVICE)


class Link:
    """As the kernel's: there until it is detached."""

    def __init__(self, ifindex: int, mode: XdpMode) -> None:
        self.ifindex, self.mode, self.attached = ifindex, mode, True

    def detach(self) -> None:
        self.attached = False

    def update(self, program: object) -> None:
        pass


class Kernel:
    """Attaches what drivers take: VLAN devices nothing native, others what is not in ``refused``."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.refused: set[tuple[int, XdpMode]] = {(10, XdpMode.NATIVE)}

    def attach(self, program: object, ifindex: int, mode: XdpMode) -> Link:
        if (ifindex, mode) in self.refused:
            raise Unavailable(f"the driver takes none in {mode.value} mode")
        self.links.append(Link(ifindex, mode))
        return self.links[-1]

    @property
    def there(self) -> set[tuple[int, str]]:
        return {(each.ifindex, each.mode.value) for each in self.links if each.attached}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(attach, "attach_xdp", made.attach)
    return made


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Those of a broker; what goes beside generic ones is not looked at here."""
    loader = SimpleNamespace(
        reads_veth=True, rows=None, program=lambda mode, tags, gate: object(), keep=lambda used: None,
        settings=lambda mode, tags, gate: (mode, gate), map=lambda name: None, note="", measures=False,
    )  # fmt: skip
    beside = SimpleNamespace(note=lambda: None, listen=lambda at: None, news=None, heard=frozenset,
                             restrict=lambda at: None)  # fmt: skip
    monkeypatch.setattr(attach, "Beside", lambda *given: beside)
    monkeypatch.setattr(attach.beside, "MAPS", ())
    return Programs(cast(Any, loader), identity=cast(Identity, None), pins=None, pin=False, reverse_path=True)


def begun(programs: Programs, mode: str = "auto", *, named: bool = False, facts: Facts = FACTS) -> Programs:
    programs.attach([DEVICE], mode, facts, named=named)
    return programs


def test_the_card_s_program_takes_the_device_s_frames(programs: Programs, kernel: Kernel) -> None:
    begun(programs)
    assert kernel.there == {(2, "native")}
    assert programs.carrying == {2, 10}
    (told,) = (each.status(FACTS.interfaces) for each in programs.attachments)
    assert (told.name, told.mode) == ("eth0", "native")
    assert told.reason == "the driver takes XDP; with VLAN 10"
    assert not programs.mend(FACTS, [DEVICE]), "that is how it is to be"


@pytest.mark.parametrize(
    ("mode", "named", "change"),
    [
        ("generic", False, lambda card: card),
        ("auto", True, lambda card: card),
        ("auto", False, lambda card: replace(card, runs_native=False)),
        ("auto", False, lambda card: replace(card, strips_tags=True)),
    ],
    ids=["generic mode", "named", "no XDP in the driver", "tags hidden"],
)
def test_else_the_device_has_one_of_its_own(
    programs: Programs, kernel: Kernel, mode: str, named: bool, change: Callable[[Interface], Interface]
) -> None:
    facts = network(change(CARD), DEVICE)
    begun(programs, mode, named=named, facts=facts)
    programs.mend(facts, [DEVICE])
    assert kernel.there == {(10, "generic")}
    assert programs.carrying == {10}


def test_a_card_that_takes_none_natively_after_all_leaves_it_to_the_device(
    programs: Programs, kernel: Kernel
) -> None:
    kernel.refused.add((2, XdpMode.NATIVE))
    begun(programs)
    programs.mend(FACTS, [DEVICE])
    assert (10, "generic") in kernel.there
    assert 10 in programs.carrying


def test_what_becomes_of_a_device_s_own_program_as_the_card_gets_one_and_loses_it(
    programs: Programs, kernel: Kernel
) -> None:
    without = network(replace(CARD, runs_native=False), DEVICE)
    begun(programs, facts=without)
    assert kernel.there == {(10, "generic")}
    assert programs.mend(FACTS, [DEVICE])
    assert kernel.there == {(2, "native")}, "none is asked twice about a frame"
    gone = network(CARD, replace(DEVICE, up=False))
    programs.mend(gone, [])
    assert programs.carrying == {2}
    programs.mend(FACTS, [DEVICE])
    assert programs.carrying == {2, 10}
    (link,) = (each for each in kernel.links if each.attached)
    link.attached = False
    kernel.refused.add((2, XdpMode.NATIVE))
    programs.mend(FACTS, [DEVICE])
    assert (10, "generic") in kernel.there, "at the same look"


def test_tc_copies_at_the_device_too(
    programs: Programs, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: dict[int, tuple[XdpMode, Gate]] = {}
    monkeypatch.setattr(attach, "Clones", lambda *given: SimpleNamespace(serve=served.update))
    strict = replace(FACTS, reverse_paths={2: 0, 10: 1})
    begun(programs, facts=strict).clone()
    assert {index: gate.asks for index, (_, gate) in served.items()} == {2: 0, 10: 10}
    assert all(not gate.vlans for _, gate in served.values()), "it sees no tags"
