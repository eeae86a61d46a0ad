"""BPF programs of the tests' own: compiled when they are needed, put on what a node sends."""

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

_CLSACT, _EGRESS, _INGRESS = 0xFFFF0000, 0xFFFFFFF3, 0xFFFFFFF2


def require_compiler() -> None:
    """There is a compiler for such programs."""
    require(None if _clang() else "clang is not installed: it compiles a program of the tests' own")


def on_egress(node: Node, interface: str, source: Path, program: str) -> None:
    """Run a tc program on all that ``interface`` of a node sends, for as long as it exists."""
    _on(_EGRESS, node, interface, source, program)


def on_ingress(node: Node, interface: str, source: Path, program: str) -> None:
    """The same on all that comes to it."""
    _on(_INGRESS, node, interface, source, program)


def _on(parent: int, node: Node, interface: str, source: Path, program: str) -> None:
    def install(route: IPRoute) -> None:
        index = socket.if_nametoindex(interface)
        route.tc("add", "clsact", index)
        with BpfObject(compiled(source)) as loaded:
            route.tc("add-filter", "bpf", index, parent=parent, fd=loaded.program(program).fd, name=program,
                     classid=1, direct_action=True)  # fmt: skip

    configure(node, install)


def _clang() -> str | None:
    return shutil.which("clang-14") or shutil.which("clang")


@cache
def compiled(source: Path) -> Path:
    """The object of a program of the tests' own."""
    clang = _clang()
    assert clang is not None, "require_compiler comes first"
    target = Path(tempfile.mkdtemp(prefix="tempos-test-")) / f"{source.stem}.o"
    subprocess.run(
        [clang, "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-idirafter",
         f"/usr/include/{sysconfig.get_config_var('MULTIARCH') or ''}",
         "-c", str(source), "-o", str(target)],
        check=True,
    )  # fmt: skip
    return target
