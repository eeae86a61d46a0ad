"""The façade over libbpf: what it gives, and that its refusals say what to do."""

from __future__ import annotations

import errno
import logging
import socket
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.packets import RAW, datagram, raw
from support.privileges import require_kernel, require_netns
from support.program import ADDRESSES, Rig, hops, plan
from support.refused import BEYOND, REASON
from support.refused import build as refused_build

from tempos import LocalError, Reason
from tempos_bench.nodes.namespace import Namespace
from tempos_bpf import maps
from tempos_bpf.errors import BpfError, InterfaceBusy, NotBuilt, ProgramRefused
from tempos_bpf.links import XdpMode, attach_xdp, query_xdp
from tempos_bpf.maps import Map, MapType, create_map, possible_cpus
from tempos_bpf.objects import BpfObject, Verdict, statistics
from tempos_fastpath.layout import SMALL_ROUTE_SIZE
from tempos_fastpath.loading import OBJECT, PROGRAM

pytestmark = pytest.mark.kernel

FRAME = bytes(datagram(ADDRESSES, raw()))


@pytest.fixture(autouse=True)
def _privileged() -> None:
    require_kernel()


@pytest.fixture
def opened() -> Iterator[BpfObject]:
    with BpfObject(OBJECT) as opened:
        yield opened


def test_an_object_that_is_missing_or_none_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(NotBuilt, match=r"nothing\.bpf\.o was not built .* install clang and libbpf-dev"):
        BpfObject(tmp_path / "nothing.bpf.o")
    (tmp_path / "noise.bpf.o").write_bytes(b"this is no ELF file" * 10)
    with pytest.raises(BpfError, match=r"cannot open the BPF object noise\.bpf\.o") as refused:
        BpfObject(tmp_path / "noise.bpf.o")
    assert "ulimit" not in str(refused.value)


@pytest.mark.parametrize(
    ("rodata", "code"),
    [({"nothing": b"1234"}, errno.ENOENT), ({"settings": b"too short"}, errno.EMSGSIZE)],
)
def test_rodata_that_does_not_fit_is_refused(rodata: dict[str, bytes], code: int) -> None:
    with pytest.raises(BpfError, match=f"variable '{next(iter(rodata))}'") as refused:
        BpfObject(OBJECT, rodata)
    assert refused.value.errno == code


def test_names_that_do_not_exist_are_answered_with_those_that_do(opened: BpfObject) -> None:
    with pytest.raises(LocalError, match=f"no program 'other'; it has {PROGRAM}"):
        opened.program("other")
    with pytest.raises(LocalError, match=r"no map 'other'; it has .*routes"):
        opened.map("other")


def test_maps_take_and_give_bytes_of_the_right_size_only() -> None:
    with create_map("numbers", MapType.HASH, key_size=4, value_size=8, max_entries=2) as numbers:
        numbers.update(7, b"01234567")
        assert numbers.lookup(7) == b"01234567"
        assert numbers.lookup(8) is None
        assert (numbers.delete(7), numbers.delete(7)) == (True, False)
        with pytest.raises(LocalError, match="a value of 3 bytes, 8 are needed"):
            numbers.update(7, b"012")
        with pytest.raises(LocalError, match="a key of 3 bytes, 4 are needed"):
            numbers.lookup(b"012")
        numbers.update(1, bytes(8))
        numbers.update(2, bytes(8))
        with pytest.raises(BpfError, match="cannot set 3 in map numbers") as refused:
            numbers.update(3, bytes(8))
        assert refused.value.errno == errno.E2BIG


def test_a_shared_array_is_bounded_and_closes_twice(opened: BpfObject) -> None:
    array = opened.map("tickets").mmap()
    assert (array.fetch_add(8, 5), array.fetch_add(8, 1), array.load(8)) == (0, 5, 6)
    array.store(8, (1 << 64) - 1)
    assert [opened.map("tickets").lookup(key) for key in (0, 1, 2)] == [bytes(8), b"\xff" * 8, bytes(8)]
    for offset in (-8, 4, opened.map("tickets").max_entries * 8):
        with pytest.raises(LocalError, match="not one of 8 aligned bytes"):
            array.load(offset)
    array.close()
    array.close()
    with pytest.raises(LocalError, match="closed"):
        array.load(0)


@pytest.mark.parametrize("room", [1, 3, 1 << 20], ids=["a row at a time", "three", "all at once"])
def test_rows_are_summed_over_the_cpus_by_as_few_looks_as_fit(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Whatever is asked for of a table of counters: the first rows, some in the middle, the last."""
    values = rig.map("counters").value_size
    monkeypatch.setattr(maps, "_SCRATCH", room * values * possible_cpus())
    counters = Map(rig.map("counters").fd, owned=False)
    wide, last = values // 8, counters.max_entries - 1
    whole = [0] * (wide * counters.max_entries)
    for row in (0, 1, 2, 5, last):
        cpus = [[row * 1000 + cpu * 10 + word for word in range(wide)] for cpu in range(possible_cpus())]
        counters.update(row, array("Q", [each for cpu in cpus for each in cpu]).tobytes())
        whole[row * wide : (row + 1) * wide] = map(sum, zip(*cpus, strict=True))
    for first, rows in ((0, last + 1), (0, 2), (1, 5), (last, 1), (3, 0)):
        found = counters.sum_rows(first, rows).tolist()
        assert found == whole[first * wide : (first + rows) * wide], (first, rows)
    with pytest.raises(LocalError, match=f"no rows {last} to {last + 1}"):
        counters.sum_rows(last, 2)


def test_two_objects_share_maps(rig: Rig) -> None:
    """As native and generic do: what one counts and draws, the other sees."""
    rig.install(plan(RAW.id, hops(2), framing=RAW.framing))
    names = ("routes", "tickets", "egress", "counters")
    settings = {"settings": rig.settings}
    with BpfObject(OBJECT, settings, {name: rig.map(name) for name in names}) as other:
        assert other.program(PROGRAM).run(FRAME).verdict == Verdict.REDIRECT
    assert rig.counters() == {(RAW.id, Reason.FORWARDED): 1}
    assert rig.tickets.read(RAW.id, 1, 0) == 1


def test_runs_and_run_time_are_counted_while_asked_for(rig: Rig) -> None:
    info = rig.program.info()
    assert (info.name, info.verified_insns > 100) == (PROGRAM, True)
    with statistics():
        rig.program.run(FRAME, repeat=10)
    grown = rig.program.info()
    assert grown.run_cnt - info.run_cnt == 10
    assert grown.run_time_ns > info.run_time_ns


def test_a_link_holds_swaps_and_lets_go(opened: BpfObject) -> None:
    require_netns()

    def inside() -> None:
        lo = socket.if_nametoindex("lo")
        program = opened.program(PROGRAM)
        with pytest.raises(BpfError, match="cannot attach XDP to lo in native mode"):
            attach_xdp(program, lo, XdpMode.NATIVE)
        with BpfObject(OBJECT) as second, attach_xdp(program, lo, XdpMode.GENERIC) as link:
            with pytest.raises(InterfaceBusy, match=r"lo already carries .* in generic mode") as busy:
                attach_xdp(second.program(PROGRAM), lo, XdpMode.GENERIC)
            assert busy.value.program_id == program.info().id
            link.update(second.program(PROGRAM))
            attached = query_xdp(lo)
            assert attached is not None
            assert (attached.program_id, attached.mode) == (second.program(PROGRAM).info().id, "generic")
            link.close()
            link.close()
            assert query_xdp(lo) is None

    with Namespace("facade") as namespace:
        namespace.call(inside)


def test_a_refused_program_is_told_in_a_sentence_and_its_whole_log_at_level_debug(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tempos_bpf")
    with pytest.raises(ProgramRefused) as refused:
        BpfObject(refused_build(tmp_path))
    error = refused.value
    assert "\n" not in str(error)
    assert f"refused the program refused of refused.bpf.o: {REASON}" in str(error)
    assert "CAP_BPF" not in str(error), "EACCES is the verifier's, no matter of privileges"
    assert BEYOND[:40] in str(error), "and names the line of source"
    assert error.errno == errno.EACCES
    assert error.log.splitlines()[-1].startswith("processed "), "to its end"
    assert "failed to load object 'refused'" in error.words
    assert error.log in caplog.text


def test_a_log_of_megabytes_is_kept_to_the_end(tmp_path: Path) -> None:
    walk = (
        "__u32 x = ctx->rx_queue_index, sum = 0;"
        "for (int i = 0; i < 100000000; i++) {"
        '  if ((x >> (i & 31)) & 1) sum += i; else sum ^= x; __asm__ volatile("" : "+r"(sum)); }'
        "return sum;"
    )
    with pytest.raises(ProgramRefused, match=r"jumps is too complex|too large") as refused:
        BpfObject(refused_build(tmp_path, walk))
    assert len(refused.value.log) > 1 << 20
    assert len(str(refused.value)) < 400


def test_many_keys_of_a_map_of_maps_are_set_by_one_call(opened: BpfObject) -> None:
    routes = opened.map("small_routes")
    made = [
        create_map("route", MapType.ARRAY, key_size=4, value_size=SMALL_ROUTE_SIZE, max_entries=1)
        for _ in range(5)
    ]
    try:
        routes.update_many([(row, inner) for row, inner in enumerate(made, 3)])
        for row, inner in enumerate(made, 3):
            found = routes.inner(row)
            assert found is not None
            with found:
                assert found.id == inner.id
        with pytest.raises(BpfError, match="cannot set 2 keys in map small_routes"):
            routes.update_many([(1, made[0]), (routes.max_entries, made[1])])
        assert routes.inner(2) is None
        with maps.map_by_id(made[0].id) as again:
            assert again.id == made[0].id
        with pytest.raises(BpfError, match="cannot open the map with id"):
            maps.map_by_id(0)
    finally:
        for inner in made:
            inner.close()


def test_many_arrays_are_put_into_a_map_of_maps_and_read_there_by_one_call_each(opened: BpfObject) -> None:
    routes = opened.map("small_routes")
    values = [bytes([number]) * SMALL_ROUTE_SIZE for number in range(1, 6)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    routes.put_arrays("route", list(enumerate(values, 3)))
    routes.put_arrays("route", [(9, values[0])])
    assert routes.first_values(range(2, 10), SMALL_ROUTE_SIZE) == [None, *values, None, values[0]]
    found = routes.inner(4)
    assert found is not None
    with found:
        assert (found.name, found.max_entries, found.lookup(0)) == ("route", 1, values[1])
    with pytest.raises(BpfError, match="cannot set 2 keys in map small_routes"):
        routes.put_arrays("route", [(2, values[0]), (routes.max_entries, values[0])])
    with pytest.raises(BpfError, match="cannot set 1 keys"):
        routes.put_arrays("route", [(2, values[0] + b"more")])
    with pytest.raises(LocalError, match="not of the same length"):
        routes.put_arrays("route", [(2, values[0]), (3, b"")])
    with pytest.raises(BpfError, match="cannot read 1 keys"):
        routes.first_values([3], SMALL_ROUTE_SIZE - 8)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
