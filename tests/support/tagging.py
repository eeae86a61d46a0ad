"""VLAN tags that travel beside a packet, not in it: as a VLAN device at the sender, or a card, leaves them.

A raw socket can only send a tag inside the frame. So a tc program of the tests' own (tagging.bpf.c) sits on
the sender's interface and gives a tag to what carries a mark.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

from pyroute2 import IPRoute

from support.nodes import configure
from support.privileges import require
from tempos_bench.nodes.node import Node
from tempos_bpf.objects import BpfObject

_SOURCE = Path(__file__).with_suffix(".bpf.c")
_WANTED, _SERVICE = 0x10000, 0x20000
_CLSACT, _EGRESS = 0xFFFF0000, 0xFFFFFFF3


def require_tagging() -> None:
    """There is a compiler for the program."""
    require(None if _clang() else "clang is not installed: it compiles the program that tags")


def mark_of(tag: int, *, service: bool = False) -> int:
    """The mark (SO_MARK) of what is to get ``tag``: VLAN id and priority. ``service``: by IEEE 802.1ad."""
    return _WANTED | (_SERVICE if service else 0) | tag


def tags_by_mark(node: Node, interface: str) -> None:
    """Have ``interface`` of a node give tags to what it sends, for as long as it exists."""

    def install(route: IPRoute) -> None:
        index = socket.if_nametoindex(interface)
        route.tc("add", "clsact", index)
        with BpfObject(_compiled()) as loaded:
            route.tc("add-filter", "bpf", index, parent=_EGRESS, fd=loaded.program("tag").fd, name="tag",
                     classid=1, direct_action=True)  # fmt: skip

    configure(node, install)


def _clang() -> str | None:
    return shutil.which("clang-14") or shutil.which("clang")


@cache
def _compiled() -> Path:
    clang = _clang()
    assert clang is not None, "require_tagging comes first"
    target = Path(tempfile.mkdtemp(prefix="tempos-test-")) / "tagging.bpf.o"
    subprocess.run(
        [clang, "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-idirafter",
         f"/usr/include/{sysconfig.get_config_var('MULTIARCH') or ''}",
         "-c", str(_SOURCE), "-o", str(target)],
        check=True,
    )  # fmt: skip
    return target
