"""Every program of every BPF object is taken by this kernel's verifier, with whatever it may be loaded.

Constants decide which branches a verifier walks: what loads with one address and no time limit need not with
eight and three seconds. With the same constants it is the same to a verifier: each is loaded once, those that
measure latency in one load with those that do not.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from support.privileges import require_kernel

import tempos_bench
import tempos_fastpath
from tempos import Unavailable
from tempos._abi import MAX_LISTEN, MAX_MACS, MAX_SUSPECTS, Tags
from tempos_bpf.maps import Map
from tempos_bpf.objects import BpfObject
from tempos_fastpath import beside, clone
from tempos_fastpath.layout import encode_settings
from tempos_fastpath.loading import OBJECT, TIMED
from tempos_fastpath.network.gates import Gate
from tempos_fastpath.network.kernel import veth_skb_at
from tempos_fastpath.survival.pins import LATENCY
from tempos_observe.frame.loading import load as load_tool
from tempos_observe.tools import TOOLS, tool
from tempos_observe.wishes import Wishes

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).resolve().parents[2]
PORT = 9998
GONE_AFTER_NS = 3_000_000_000
#: What there is to load, by the source's name, and where it is built. The command tc loads `loses`.
FASTPATH, BENCH = (Path(str(package.__file__)).parent for package in (tempos_fastpath, tempos_bench))
BUILT = {
    **dict.fromkeys(("fastpath", "beside", "clone", "drops", "selector", "trial"), FASTPATH),
    **dict.fromkeys(("generate", "loses", "yardsticks"), BENCH),
}
#: Programs that are loaded when asked for.
OPTIONAL = {"fastpath": [TIMED], "beside": beside.PROGRAMS, "clone": [clone.TIMED]}
#: Other constants than those that a program begins with.
CONSTANTS: Mapping[str, Mapping[str, bytes]] = {
    "beside": {"our_namespace": bytes(range(1, 9))},
    "trial": {"our_namespace": bytes(range(1, 9)), "tried": bytes(range(1, 5))},
    "drops": {"our_namespace": bytes(range(1, 9)), "our_egress": bytes(range(1, 5))},
    "generate": {"head": bytes(range(72))},
    "yardsticks": {"macs": bytes(range(12)), "relay_hosts": bytes(range(8)), "relay_macs": bytes(range(18))},
}
MACS = [f"02:00:00:00:00:{n:02x}" for n in range(MAX_MACS)]
SUSPECTS = [f"10.{n}.2.1" for n in range(MAX_SUSPECTS)]
#: Whose frames are taken: the fewest constants, and the most, that there can be.
GATES = {
    "one-MAC": Gate(tuple(MACS[:1])),
    "asks": Gate(tuple(MACS[:1]), (), asks=7),
    "learns": Gate(tuple(MACS[:1]), (), learns=7),
    "most": Gate(tuple(MACS), tuple(SUSPECTS), asks=7, learns=7),
}
KINDS = ("native", "generic", "tc")
#: Of each kind, how many addresses are ours and how long user space may be silent.
DIMENSIONS = (KINDS, range(1, MAX_LISTEN + 1), (0, GONE_AFTER_NS))
#: What is most and least for a verifier; each number of addresses between is among :data:`SHORT`.
VARIANTS = list(itertools.product(KINDS, (1, MAX_LISTEN), DIMENSIONS[2]))


class Turn(NamedTuple):
    """One choice of all constants; ``timed``: beside the programs that measure latency."""

    kind: str
    addresses: int
    gone_after: int
    gate: str
    tags: Tags
    timed: bool


def _turns() -> Iterator[Turn]:
    """Each constant once, and each kind with either silence and with and without latency."""
    gates, native = itertools.cycle(GATES), itertools.cycle((Tags.IN_FRAME, Tags.READ, Tags.HEARD))
    timed = itertools.cycle((True,) * len(KINDS) + (False,) * len(KINDS))
    for kind, addresses, gone_after in zip(
        itertools.cycle(KINDS), DIMENSIONS[1], itertools.cycle(DIMENSIONS[2]), strict=False
    ):
        tags = next(native) if kind == "native" else Tags.NOTED if kind == "generic" else Tags.IN_FRAME
        yield Turn(kind, addresses, gone_after, next(gates), tags, next(timed))


#: The short form of a kernel's run loads these alone.
SHORT = list(_turns())

#: Everybody, one process, several of them: the programs of observation tools ask in other words each time.
WISHES = {
    "all": Wishes(),
    "one": Wishes(pids=frozenset({1}), comm="python"),
    "several": Wishes(pids=frozenset({1, 2}), interval=1.0),
}


def described(variant: tuple[str, int, int] | Turn) -> str:
    kind, addresses, gone_after = variant[:3]
    return f"{kind}-{addresses}-addresses-{'gone-after' if gone_after else 'for-ever'}"


@cache
def sources() -> dict[str, str]:
    files = (path for folder in ("fastpath", "bench") for path in (ROOT / folder / "bpf").glob("*.bpf.c"))
    return {path.name.partition(".")[0]: path.read_text() for path in files}


def programs(source: str, *, optional: bool) -> set[str]:
    """The programs that a source defines: those that are always loaded, or those that are not."""
    found = re.findall(r'^SEC\("(\??)(?!\.maps|license)[^"]+"\)\n\w+ (?:BPF_PROG\()?(\w+)', source, re.M)
    return {name for mark, name in found if bool(mark) is optional}


@pytest.fixture(autouse=True)
def _privileged() -> None:
    require_kernel()


@pytest.fixture(scope="module")
def xdp() -> Iterator[BpfObject]:
    """The XDP programs, whose maps the others share."""
    require_kernel()
    settings = encode_settings(PORT, ["10.0.0.1"], GATES["one-MAC"], generic=False)
    with BpfObject(OBJECT, {"settings": settings}, also=[TIMED]) as loaded:
        yield loaded


def load(name: str, constants: Mapping[str, bytes], share: Mapping[str, Map], also: Sequence[str] = (),
         without: Sequence[str] = ()) -> None:  # fmt: skip
    """Load an object: all that its source says it has must be there, and be the kernel's."""
    source = sources()[name]
    with BpfObject(BUILT[name] / f"{name}.bpf.o", constants, share, also=also, without=without) as loaded:
        for program in programs(source, optional=False) | set(also):
            assert loaded.program(program).info().verified_insns > 0


def test_all_that_there_is_to_load_is_loaded_here() -> None:
    assert sources().keys() == BUILT.keys()
    for name, source in sources().items():
        assert programs(source, optional=False) or programs(source, optional=True)
        assert programs(source, optional=True) == set(OPTIONAL.get(name, ()))


def test_the_short_form_has_every_constant() -> None:
    kinds, addresses, silences, gates, tags, _ = map(set, zip(*SHORT, strict=True))
    assert (kinds, addresses, silences) == tuple(map(set, DIMENSIONS))
    assert (gates, tags) == (set(GATES), set(Tags))
    for dimension, values in (("gone_after", DIMENSIONS[2]), ("timed", (False, True))):
        found = {(turn.kind, getattr(turn, dimension)) for turn in SHORT}
        assert found == set(itertools.product(KINDS, values)), dimension


@pytest.mark.parametrize("turn", SHORT, ids=described)
def test_the_programs_by_each_constant(xdp: BpfObject, turn: Turn) -> None:
    skb_at = veth_skb_at() or 0
    tags = Tags.IN_FRAME if turn.tags is Tags.READ and not skb_at else turn.tags
    settings = encode_settings(
        PORT, [f"10.{n}.2.1" for n in range(turn.addresses)], GATES[turn.gate],
        generic=turn.kind == "generic", gone_after_ns=turn.gone_after, tags=tags, skb_at=skb_at,
    )  # fmt: skip
    load_kind(turn.kind, settings, xdp, timed=turn.timed)


@pytest.mark.full
@pytest.mark.parametrize("variant", VARIANTS, ids=described)
def test_the_programs_by_addresses_and_silence(xdp: BpfObject, variant: tuple[str, int, int]) -> None:
    kind, addresses, gone_after = variant
    listen = [f"10.{n}.2.1" for n in range(addresses)]
    settings = encode_settings(
        PORT, listen, GATES["most"], generic=kind == "generic", gone_after_ns=gone_after
    )
    load_kind(kind, settings, xdp, timed=True)


@pytest.mark.full
@pytest.mark.parametrize("tags", Tags)
def test_the_xdp_programs_by_how_they_know_of_tags(xdp: BpfObject, tags: Tags) -> None:
    skb_at = veth_skb_at() or 0
    if tags is Tags.READ and not skb_at:
        pytest.skip("before Linux 6.3 nothing that veth gives a program leads to the socket buffer")
    generic = tags is Tags.NOTED
    settings = encode_settings(
        PORT, ["10.0.0.1"], GATES["one-MAC"], generic=generic, tags=tags, skb_at=skb_at
    )
    load_kind("generic" if generic else "native", settings, xdp, timed=True)


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gate", GATES)
def test_the_programs_by_whose_frames_they_take(xdp: BpfObject, gate: str, kind: str) -> None:
    """As a broker loads them that measures no latency: without the map that this takes."""
    settings = encode_settings(PORT, ["10.0.0.1"], GATES[gate], generic=kind == "generic")
    load_kind(kind, settings, xdp, timed=False)


def load_kind(kind: str, settings: bytes, xdp: BpfObject, *, timed: bool) -> None:
    """The programs of a mode, beside those that measure latency if ``timed``."""
    constants, without = {"settings": settings}, [] if timed else [LATENCY]
    if kind == "tc":
        shared = {name: xdp.map(name) for name in (*clone.MAPS, *([LATENCY] if timed else []))}
        load("clone", constants, shared, [clone.TIMED] if timed else [], without)
    else:
        load("fastpath", constants, {}, [TIMED] if timed else [], without)


def test_both_modes_beside_each_other_share_their_maps(xdp: BpfObject) -> None:
    settings = encode_settings(PORT, ["10.0.0.1"], GATES["one-MAC"], generic=True)
    shared = {name: xdp.map(name) for name in ("routes", "tickets", "egress", "counters", LATENCY)}
    load("fastpath", {"settings": settings}, shared, [TIMED])


@pytest.mark.parametrize("name", ["beside", "drops", "selector", "trial", "generate", "yardsticks"])
@pytest.mark.parametrize("constants", ["own", "other"])
def test_the_small_programs(xdp: BpfObject, name: str, constants: str) -> None:
    shared = {"beside": beside.MAPS, "drops": ("copies", "sending"), "selector": ("topics",)}.get(name, ())
    chosen = CONSTANTS.get(name, {}) if constants == "other" else {}
    load(name, chosen, {each: xdp.map(each) for each in shared}, OPTIONAL.get(name, ()))


@pytest.mark.parametrize("wanted", WISHES)
@pytest.mark.parametrize("name", TOOLS)
def test_the_programs_of_a_tool_of_observation(name: str, wanted: str) -> None:
    """With all of its options. What a kernel has not, a tool goes without or has another way for."""
    found = tool(name)
    own = {option.name: option.default if option.kind else True for option in found.options}
    wishes = replace(WISHES[wanted], own=own)
    watch = (lambda _: None) if wanted == "several" and found.by_process else None
    try:
        loaded = load_tool(found, wishes, watch)
    except Unavailable as refusal:
        # Who was born with a later kernel says so; what a verifier refuses is a fault.
        if "it has no tracepoint" not in str(refusal):
            raise
        pytest.skip(str(refusal))
    try:
        assert loaded.hooked
        print(*loaded.left_out, sep="\n")
    finally:
        loaded.close()
