"""A process that tries what the kernel gives, in a network namespace of its own: a line of JSON for each.

`python -m tempos_fastpath.doctor.trials`, as root. All that it makes ends with it: the namespace, the links
in it, the programs on them; a pin is removed before the next thing is tried.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from tempos import Unavailable
from tempos.doctor import Tried
from tempos.errors import one_line
from tempos_bpf.bpffs import is_bpffs
from tempos_bpf.errors import ProgramRefused
from tempos_bpf.links import XdpMode, attach_tc, attach_tracing, attach_xdp
from tempos_bpf.objects import BpfObject
from tempos_fastpath import clone, drops, loading
from tempos_fastpath.doctor import forwarding, loads
from tempos_fastpath.doctor.parent import line_of
from tempos_fastpath.doctor.sandbox import BROKER, NEAR, build
from tempos_fastpath.network.reading import told_features
from tempos_fastpath.selector import attach_selector
from tempos_fastpath.survival.ownership import BPFFS

_CLONE_NEWNET = 0x40000000


def main() -> int:
    """Try everything; the exit code is 0 if there was a try of each."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        print(f"no network namespace: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        return 1
    for tried in trials():
        print(line_of(tried), flush=True)
    return 0


def trials() -> Iterator[Tried]:
    """Everything there is to try. What needs a program that is refused says so, and not again why."""
    refused = set()
    for tried in loads.gather():
        refused |= loads.refused_modes(tried)
        yield tried
    try:
        build()
    except Unavailable as error:
        yield from (Tried(code, None, one_line(error)) for code in (*forwarding.CODES, *_ON_LINKS))
    else:
        yield from forwarding.gather(refused)
        yield from (_try(code, work) for code, work in _ON_LINKS.items())
    yield from (_try(code, work) for code, work in _ANYWHERE.items())


def _try(code: str, work: Callable[[], str]) -> Tried:
    try:
        return Tried(code, True, work())
    except ProgramRefused as error:
        return Tried(code, False, f"the program {error.program} is refused, as above")
    except (Unavailable, OSError) as error:
        return Tried(code, False, one_line(error))


def _pins() -> str:
    if not is_bpffs(BPFFS):
        raise Unavailable(f"there is none at {BPFFS}")
    return f"mounted at {BPFFS}"


def _tc_links() -> str:
    with BpfObject(clone.OBJECT) as loaded:
        attach_tc(loaded.program(clone.PROGRAM), socket.if_nametoindex(NEAR)).close()
    return "attached to a veth"


def _netdev_family() -> str:
    found = told_features()
    if not found:
        raise Unavailable("the kernel has none, which came with Linux 6.3")
    return f"it told of {len(found)} devices"


def _losses() -> str:
    with BpfObject(drops.OBJECT) as loaded, ExitStack() as links:
        for name in drops.PROGRAMS:
            links.enter_context(attach_tracing(loaded.program(name)))
    return f"{len(drops.PROGRAMS)} tracing programs attached"


def _selector() -> str:
    with BpfObject(loading.OBJECT) as loaded, ExitStack() as sockets:
        pair: list[socket.socket] = []
        for _ in range(2):
            sock = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(pair[0].getsockname() if pair else (BROKER, 0))
            pair.append(sock)
        maps = {name: loaded.map(name) for name in ("rows", "topics")}
        attach_selector(maps, *(sock.fileno() for sock in pair))
    return "a program chooses between two sockets"


def _swap() -> str:
    """What a broker does that takes over from another: it replaces the program in a link that is pinned."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(BpfObject(loading.OBJECT)) for _ in range(2))
        index = socket.if_nametoindex(NEAR)
        link = stack.enter_context(attach_xdp(first.program(loading.PROGRAM), index, XdpMode.GENERIC))
        if is_bpffs(BPFFS):
            link.pin(Path(BPFFS, f"tempos-doctor-{os.getpid()}"))
            stack.callback(link.unpin)
        link.update(second.program(loading.PROGRAM))
        return "a link got another program" + (" and a pin" if link.pinned else "; pins were not tried")


_ON_LINKS: dict[str, Callable[[], str]] = {"TD131": _tc_links, "TD134": _selector, "TD135": _swap}
_ANYWHERE: dict[str, Callable[[], str]] = {"TD104": _pins, "TD132": _netdev_family, "TD133": _losses}

if __name__ == "__main__":
    sys.exit(main())
