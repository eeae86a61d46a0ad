"""Links that lose, by two tc programs at a client's interface; they are gone with its namespace.

Which events are lost the first time follows from their numbers: :func:`is_lost` is the twin of what stands in
`bench/bpf/loses.bpf.c`. Needs the checkout, clang and tc.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from tempos import Unavailable
from tempos_bench.nodes.node import Node

MILLION = 1_000_000
_SOURCE = Path(__file__).parents[2] / "bpf" / "loses.bpf.c"
_U32 = 0xFFFFFFFF
#: With BPF's file system to itself: tc makes folders there, and leaves them.
_APART = (
    "unshare", "--mount", "--propagation", "private", "sh", "-c",
    'mount -t bpf bpf /sys/fs/bpf && exec "$@"', "sh",
)  # fmt: skip


def is_lost(sequence: int, port: int, loss: int) -> bool:
    """Whether the event with this number is lost on its way to a port (0: to the broker) the first time.

    ``loss``: of a million.
    """
    x = (sequence * 2654435761 + port) & _U32
    x ^= x >> 16
    x = x * 0x85EBCA6B & _U32
    x ^= x >> 13
    x = x * 0xC2B2AE35 & _U32
    x ^= x >> 16
    return x % MILLION < loss


def loses(node: Node, interface: str, loss: int, double: int = 0, mix: int = 0) -> None:
    """Lose so many of a million datagrams between this node and a broker.

    ``double`` so many of the events that it sends; have so many, ``mix``, overtaken by others, either way.

    Raises :class:`Unavailable` where that cannot be had.
    """
    clang, tc = shutil.which("clang-14") or shutil.which("clang"), shutil.which("tc")
    if clang is None or tc is None or not _SOURCE.is_file():
        raise Unavailable("links that lose need clang, tc (iproute2), and a checkout")
    with tempfile.TemporaryDirectory(prefix="tempos-lossy-") as folder:
        target = Path(folder, "loses.o")
        system = f"/usr/include/{sysconfig.get_config_var('MULTIARCH') or ''}"
        _run(
            clang, "-O2", "-g", "-target", "bpf", "-mcpu=v3",
            f"-DLOSS={loss}", f"-DDOUBLE={double}", f"-DMIX={mix}",
            "-idirafter", system, "-c", str(_SOURCE), "-o", str(target),
        )  # fmt: skip

        def attach() -> None:
            _run(tc, "qdisc", "add", "dev", interface, "clsact")
            for way, section in (("egress", "to_broker"), ("ingress", "from_broker")):
                _run(
                    *_APART, tc, "filter", "add", "dev", interface, way, "bpf", "direct-action",
                    "object-file", str(target), "section", f"tc/{section}",
                )  # fmt: skip

        node.call(attach)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        named = [word for word in command if word not in _APART][:3]
        raise Unavailable(f"{' '.join(named)}: {done.stderr.strip() or done.stdout.strip()}")
