"""Where programs are attached, and what keeps them there: XDP, tcx and tracing links, and pins of links.

An interface index is one of the calling thread's network namespace. A program that is not ours is never
replaced or taken off: :class:`~tempos_bpf.errors.InterfaceBusy` names it.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tempos_bpf.errors import InterfaceBusy
from tempos_bpf.library import check, ffi, lib, text
from tempos_bpf.objects import Program

LinkType = TypeVar("LinkType", bound="Link")


class XdpMode(str, enum.Enum):
    """Where an XDP program runs: in the driver, or on socket buffers after it."""

    NATIVE = "native"
    GENERIC = "generic"


@dataclass(frozen=True, slots=True)
class AttachedXdp:
    """An XDP program that an interface carries."""

    program_id: int
    name: str
    mode: str


class Link:
    """What holds a program where it is attached.

    Closing it, or the end of the process, detaches the program, unless the link is pinned as well.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pin: Path | None = None

    @property
    def fd(self) -> int:
        return self._fd

    @property
    def pinned(self) -> bool:
        """Whether it outlives this process."""
        return self._pin is not None

    def pin(self, path: Path) -> None:
        """Keep the link beyond this process, under a path of a BPF file system where nothing is yet."""
        check(lib.tempos_pin(self._fd, bytes(path)), f"cannot pin a link at {path}")
        self._pin = path

    def unpin(self) -> None:
        """Give up the pin: the link then ends with this process. Safe to call twice."""
        if self._pin is not None:
            self._pin.unlink(missing_ok=True)
            self._pin = None

    def close(self) -> None:
        """Let go of it; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self: LinkType) -> LinkType:  # noqa: PYI019 - typing.Self is newer than our oldest Python
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()


class InterfaceLink(Link):
    """A program on an interface. ``pin``: where the link was found, if it was."""

    def __init__(self, fd: int, ifindex: int, pin: Path | None = None) -> None:
        super().__init__(fd)
        self._pin = pin
        self.ifindex = ifindex

    @property
    def attached(self) -> bool:
        """Whether the interface is still there; one that was removed takes the program with it."""
        return self._fd >= 0 and _link_ifindex(self._fd) != 0

    def update(self, program: Program) -> None:
        """Put another program in its place, atomically for every packet."""
        check(lib.tempos_link_update(self._fd, program.fd), f"cannot swap in program {program.name}")

    def detach(self) -> None:
        """Take the program off, pinned or not, and let go; safe to call twice."""
        if self._fd >= 0:
            # Not through the pin alone: that may be out of our reach after privileges were dropped.
            lib.tempos_link_detach(self._fd)
        with contextlib.suppress(OSError):
            self.unpin()
        self.close()


class XdpLink(InterfaceLink):
    """An attached XDP program."""

    def __init__(self, fd: int, ifindex: int, mode: XdpMode, pin: Path | None = None) -> None:
        super().__init__(fd, ifindex, pin)
        self.mode = mode


def _link_ifindex(fd: int) -> int:
    info = ffi.new("struct tempos_link_info *")
    check(lib.tempos_link_info(fd, info), "cannot read what a link is")
    return int(info.ifindex)


def pinned_xdp(path: Path, mode: XdpMode) -> XdpLink:
    """The XDP link that is pinned at ``path``; ``ifindex`` is 0 where its interface is gone."""
    fd = check(lib.tempos_pinned(bytes(path)), f"cannot open the pin {path}")
    return XdpLink(fd, _link_ifindex(fd), mode, path)


def pinned_tc(path: Path) -> InterfaceLink:
    """The link of a tc program that is pinned at ``path``; ``ifindex`` is 0 where its interface is gone."""
    fd = check(lib.tempos_pinned(bytes(path)), f"cannot open the pin {path}")
    return InterfaceLink(fd, _link_ifindex(fd), path)


def attach_tracing(program: Program) -> Link:
    """Attach a ``tp_btf`` program to the tracepoint it was made for."""
    return Link(check(lib.tempos_tracing_attach(program.fd), f"cannot attach program {program.name}"))


def attach_xdp(program: Program, ifindex: int, mode: XdpMode) -> XdpLink:
    """Attach through a ``bpf_link``; raises :class:`InterfaceBusy` where another program sits.

    ``ifindex`` is one of the calling thread's network namespace.
    """
    fd = lib.tempos_xdp_attach(program.fd, ifindex, mode is XdpMode.GENERIC)
    if fd >= 0:
        return XdpLink(fd, ifindex, mode)
    if fd in (-errno.EBUSY, -errno.EEXIST):
        attached = query_xdp(ifindex)
        if attached is not None:
            raise InterfaceBusy(_interface_name(ifindex), attached.name, attached.program_id, attached.mode)
    check(fd, f"cannot attach XDP to {_interface_name(ifindex)} in {mode.value} mode")
    raise AssertionError("a negative result raises")


def attach_tc(program: Program, ifindex: int) -> InterfaceLink:
    """Put a tc program on what comes in by an interface, behind those that are there (tcx, Linux 6.6)."""
    fd = lib.tempos_tcx_attach(program.fd, ifindex)
    hint = " (before Linux 6.6 the kernel has no links for it)" if fd == -errno.EINVAL else ""
    check(fd, f"cannot attach tc program {program.name} to {_interface_name(ifindex)}{hint}")
    return InterfaceLink(fd, ifindex)


def has_tc_links() -> bool:
    """Whether the kernel has the links that :func:`attach_tc` makes; True where it may not be asked."""
    return bool(lib.tempos_tcx_known())


def query_xdp(ifindex: int) -> AttachedXdp | None:
    """The XDP program that an interface carries, or None."""
    found = ffi.new("struct tempos_xdp_query *")
    check(lib.tempos_xdp_query(ifindex, found), f"cannot ask what {_interface_name(ifindex)} carries")
    by_mode = {"native": found.drv_prog_id, "generic": found.skb_prog_id, "offloaded": found.hw_prog_id}
    for mode, program_id in by_mode.items():
        if program_id:
            return AttachedXdp(int(program_id), program_name(program_id), mode)
    return None


def program_name(program_id: int) -> str:
    """The kernel's name of a program; empty if it is gone by now, or hidden from this user."""
    name = ffi.new("char[]", lib.TEMPOS_NAME_LEN)
    lib.tempos_program_name_by_id(program_id, name)
    return text(name)


def _interface_name(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"interface {ifindex}"
