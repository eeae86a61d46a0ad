"""Objects and the programs in them: open, configure, load, run on frames of our own.

The way of an object is open -> set rodata -> load, all three in :class:`BpfObject`'s constructor, and
close. Every refusal of the kernel is a :class:`~tempos_bpf.errors.BpfError` that carries the errno; for a
program it is a :class:`~tempos_bpf.errors.ProgramRefused` with the verifier's log, which is also logged at
level debug. All calls may block and may be made from any thread.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import logging
import mmap
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tempos import LocalError
from tempos_bpf.errors import BpfError, NotBuilt, ProgramRefused
from tempos_bpf.layouts import Layout, layout_of
from tempos_bpf.library import check, ffi, lib, text, words
from tempos_bpf.maps import Map
from tempos_bpf.verifier import failed_program

#: Enough for the verifier's walk through the largest program; a page costs memory once it is written to.
_LOG_SIZE = 1 << 24
_MAX_FRAME = 1 << 16
#: Variables of an object, at most.
_VARIABLES = 1 << 10
_logger = logging.getLogger(__name__)


class Verdict(enum.IntEnum):
    """What an XDP program returns."""

    ABORTED = 0
    DROP = 1
    PASS = 2
    TX = 3
    REDIRECT = 4


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says of a loaded program; the run figures grow only while statistics are on."""

    id: int
    name: str
    verified_insns: int
    jited_bytes: int
    run_time_ns: int
    run_cnt: int
    #: How often it was left out, statistics on or not: it, or another of its kind, was running there already.
    recursion_misses: int


@dataclass(frozen=True, slots=True)
class TestRun:
    """The outcome of a test run; ``duration_ns`` is the kernel's average over the repetitions."""

    __test__ = False  # not a test class, whatever pytest makes of the name

    verdict: int
    data: bytes
    duration_ns: int


class Program:
    """A loaded program of an object."""

    def __init__(self, name: str, fd: int, section: str) -> None:
        self.name = name
        #: What it is and where it belongs, for instance "tp_btf/sched_switch".
        self.section = section
        self._fd = fd

    @property
    def fd(self) -> int:
        return self._fd

    def info(self) -> ProgramInfo:
        info = ffi.new("struct tempos_program_info *")
        check(lib.tempos_program_info(self._fd, info), f"cannot read what program {self.name} is")
        return ProgramInfo(int(info.id), text(info.name), int(info.verified_insns), int(info.jited_len),
                           int(info.run_time_ns), int(info.run_cnt), int(info.recursion_misses))  # fmt: skip

    def call(self) -> None:
        """Run once, on nothing: one of a section `raw_tp/...` that is attached nowhere."""
        check(lib.tempos_call(self._fd), f"cannot run program {self.name}")

    def run(self, frame: bytes, *, repeat: int = 1, ingress_ifindex: int = 0) -> TestRun:
        """Run on one frame (``BPF_PROG_TEST_RUN``) and give what came out. A redirect is not carried out."""
        out = ffi.new("char[]", _MAX_FRAME)
        result = ffi.new("struct tempos_test_run *")
        code = lib.tempos_run(
            self._fd, ffi.from_buffer(frame), len(frame), out, _MAX_FRAME, ingress_ifindex, repeat, result
        )
        check(code, f"cannot test-run program {self.name}")
        data = bytes(ffi.buffer(out, result.data_size_out))
        return TestRun(int(result.retval), data, int(result.duration_ns))

    def run_live(self, frame: bytes, *, repeat: int, ingress_ifindex: int, batch: int = 64) -> None:
        """Send ``repeat`` live frames through the program; redirects really leave. Blocks until all have.

        The kernel recycles the pages with what programs wrote into them.
        """
        code = lib.tempos_run_live(
            self._fd, ffi.from_buffer(frame), len(frame), ingress_ifindex, repeat, batch
        )
        check(code, f"cannot run live frames through program {self.name}")

    def run_each(self, frames: Sequence[bytes], *, ingress_ifindex: int = 0) -> list[int]:
        """Run once on each frame, without Python in between; gives the verdicts."""
        sizes = ffi.new("__u32[]", [len(frame) for frame in frames])
        verdicts = ffi.new("__u32[]", len(frames))
        done = lib.tempos_run_each(
            self._fd, ffi.from_buffer(b"".join(frames)), sizes, len(frames), ingress_ifindex, verdicts
        )
        check(done, f"cannot test-run program {self.name}")
        if done != len(frames):
            raise LocalError(f"the kernel refused to test-run frame {done} ({sizes[done]} bytes)")
        return list(verdicts)


class BpfObject:
    """An object file, opened, configured and loaded.

    ``rodata`` sets global variables by name before the load, ``share`` makes maps of this object the
    given existing ones, ``sizes`` says how many entries others are made with. ``also`` names programs that
    are loaded only if asked for (their section begins with "?"), ``without`` maps that are not made, since
    nothing that is loaded uses them.
    Raises :class:`NotBuilt` if the file is missing, :class:`BpfError` otherwise.
    """

    def __init__(
        self,
        path: Path,
        rodata: Mapping[str, bytes] | None = None,
        share: Mapping[str, Map] | None = None,
        *,
        sizes: Mapping[str, int] | None = None,
        also: Collection[str] = (),
        without: Collection[str] = (),
    ) -> None:
        image = _image(path)
        self.name, self._file = path.name.partition(".")[0], path.name
        self._log = mmap.mmap(-1, _LOG_SIZE)
        self._log_view: Any = ffi.from_buffer("char[]", self._log, require_writable=True)
        handle = ffi.new("struct bpf_object **")
        code = lib.tempos_object_open(
            image, len(image), self.name.encode(), self._log_view, _LOG_SIZE, handle
        )
        self._object: Any = handle[0] if code >= 0 else None
        self._programs: dict[str, Program] = {}
        self._maps: dict[str, Map] = {}
        self._handles: dict[str, Any] = {}
        #: The programs that were not loaded, for nobody named them in ``also``.
        self.left_out: tuple[str, ...] = ()
        try:
            check(code, f"cannot open the BPF object {path.name}")
            self._configure(rodata or {}, share or {}, sizes or {})
            self._choose(also, without)
            self._load()
        except BaseException:
            self.close()
            raise

    @property
    def programs(self) -> tuple[Program, ...]:
        """All that are loaded."""
        return tuple(self._programs.values())

    def program(self, name: str) -> Program:
        if name not in self._programs:
            raise LocalError(f"{self.name} has no program {name!r}; it has {', '.join(self._programs)}")
        return self._programs[name]

    def map(self, name: str) -> Map:
        if name not in self._maps:
            raise LocalError(f"{self.name} has no map {name!r}; it has {', '.join(self._maps)}")
        return self._maps[name]

    def layout(self, name: str) -> Layout:
        """Of a struct of the object, by its name in C."""
        number = lib.tempos_type_find(self._object, name.encode())
        if number < 0:
            raise LocalError(f"{self.name} has no struct {name!r}")
        return layout_of(self._object, number, name)

    def layouts(self, name: str) -> tuple[Layout, Layout]:
        """Of the keys and of the values of a map."""
        self.map(name)
        numbers = ffi.new("__u32[2]")
        lib.tempos_map_types(self._handles[name], numbers, numbers + 1)
        return layout_of(self._object, numbers[0], f"{name}_key"), layout_of(
            self._object, numbers[1], f"{name}_value"
        )

    def variables(self, prefix: str) -> dict[str, int]:
        """The integer variables that programs write whose names begin so, without that; as they are now."""
        found: dict[str, int] = {}
        name, value = ffi.new("char **"), ffi.new("char[8]")
        for index in range(_VARIABLES):
            size = lib.tempos_variable_at(self._object, index, name, value, 8)
            if size == -errno.ENOENT:
                break
            check(size, f"cannot read the variables of {self.name}")
            word = text(name[0])
            if word.startswith(prefix):
                found[word.removeprefix(prefix)] = int.from_bytes(
                    ffi.buffer(value, min(size, 8)), sys.byteorder
                )
        return found

    def close(self) -> None:
        """Release programs and maps that nothing else holds; safe to call twice."""
        self._programs.clear()
        self._maps.clear()
        self._handles.clear()
        if self._object is not None:
            lib.tempos_object_close(self._object)
            self._object = None
        if self._log_view is not None:
            ffi.release(self._log_view)
            self._log_view = None
            self._log.close()

    def __enter__(self) -> BpfObject:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()

    def _configure(
        self, rodata: Mapping[str, bytes], share: Mapping[str, Map], sizes: Mapping[str, int]
    ) -> None:
        for name, value in rodata.items():
            code = lib.tempos_object_set_variable(self._object, name.encode(), value, len(value))
            check(code, f"cannot set the variable {name!r} of {self.name} to {len(value)} bytes")
        handles = {text(lib.tempos_map_name(handle)): handle for handle in self._map_handles()}
        for name in (*share, *sizes):
            if name not in handles:
                raise LocalError(f"{self.name} has no map {name!r}; it has {', '.join(handles)}")
        for name in sizes.keys() - share.keys():
            check(lib.tempos_map_resize(handles[name], sizes[name]), f"cannot size the map {name!r}")
        for name, shared in share.items():
            check(lib.tempos_map_reuse(handles[name], shared.fd), f"cannot share the map {name!r}")

    def _choose(self, also: Collection[str], without: Collection[str]) -> None:
        programs = {text(lib.tempos_program_name(handle)): handle for handle in self._program_handles()}
        maps = {text(lib.tempos_map_name(handle)): handle for handle in self._map_handles()}
        for name in also:
            if name not in programs:
                raise LocalError(f"{self.name} has no program {name!r}; it has {', '.join(programs)}")
            check(lib.tempos_program_take(programs[name]), f"cannot load the program {name!r}")
        for name in without:
            if name not in maps:
                raise LocalError(f"{self.name} has no map {name!r}; it has {', '.join(maps)}")
            check(lib.tempos_map_leave_out(maps[name]), f"cannot leave out the map {name!r}")

    def _load(self) -> None:
        code = lib.tempos_object_load(self._object)
        if code < 0:
            raise self._refusal(-code, words())
        for handle in self._program_handles():
            name, fd = text(lib.tempos_program_name(handle)), lib.tempos_program_fd(handle)
            if fd >= 0:
                self._programs[name] = Program(name, fd, text(lib.tempos_program_section(handle)))
            else:
                self.left_out += (name,)
        for handle in self._map_handles():
            fd = lib.tempos_map_fd(handle)
            if fd >= 0:
                name = text(lib.tempos_map_name(handle))
                self._maps[name] = Map(fd, owned=False)
                self._handles[name] = handle

    def _refusal(self, code: int, said: str) -> BpfError:
        log = self._log[: self._log.find(b"\0")].decode(errors="replace")
        program = failed_program(said)
        if not log or not program:
            return BpfError(f"the kernel refused the BPF object {self.name}", code, said)
        _logger.debug("the verifier's log of the program %s of %s:\n%s", program, self.name, log)
        return ProgramRefused(program, self._file, code, said, log)

    def _program_handles(self) -> Iterator[Any]:
        handle = lib.tempos_object_next_program(self._object, ffi.NULL)
        while handle != ffi.NULL:
            yield handle
            handle = lib.tempos_object_next_program(self._object, handle)

    def _map_handles(self) -> Iterator[Any]:
        handle = lib.tempos_object_next_map(self._object, ffi.NULL)
        while handle != ffi.NULL:
            yield handle
            handle = lib.tempos_object_next_map(self._object, handle)


def program_sections(path: Path) -> dict[str, str]:
    """The programs of an object file and their sections; loads none. Raises as :class:`BpfObject`."""
    image = _image(path)
    handle = ffi.new("struct bpf_object **")
    code = lib.tempos_object_open(
        image, len(image), path.name.partition(".")[0].encode(), ffi.NULL, 0, handle
    )
    check(code, f"cannot open the BPF object {path.name}")
    try:
        found, program = {}, lib.tempos_object_next_program(handle[0], ffi.NULL)
        while program != ffi.NULL:
            found[text(lib.tempos_program_name(program))] = text(lib.tempos_program_section(program))
            program = lib.tempos_object_next_program(handle[0], program)
    finally:
        lib.tempos_object_close(handle[0])
    return found


def _image(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotBuilt(
            f"the BPF object {path.name} was not built ({error.strerror}); "
            "install clang and libbpf-dev, then tempos[fastpath] again"
        ) from error


def libbpf_version() -> str:
    """Of the library that is loaded, for instance "1.1"."""
    return text(lib.tempos_libbpf_version())


@contextlib.contextmanager
def statistics() -> Iterator[None]:
    """While inside, the kernel counts runs and run time of every program (costs each some 20 ns)."""
    fd = lib.tempos_stats_enable()
    check(fd, "cannot turn BPF statistics on")
    try:
        yield
    finally:
        os.close(fd)


def member_offset(module: str, struct: str, member: str) -> int | None:
    """Bytes from the begin of a struct of the kernel to a member; None where this kernel has no such thing.

    ``module``: the one that the struct is part of, if it is not part of the kernel itself.
    """
    offset = lib.tempos_member_offset(module.encode(), struct.encode(), member.encode())
    return int(offset) if offset >= 0 else None
