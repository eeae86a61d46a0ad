"""Namespaces and links for one case, made by the commands an operator would type; gone at the end.

What a kernel was built without raises :class:`Lacking` in its own words; what else fails is an error.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

import tempos_bench
from tempos_bench.nodes.namespace import Namespace
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.patience import patience
from tempos_bpf.links import XdpMode, attach_xdp
from tempos_bpf.objects import BpfObject

LIMIT = patience(60)
YARDSTICKS = Path(str(tempos_bench.__file__)).with_name("yardsticks.bpf.o")
_QUIET = """
net.ipv6.conf.all.disable_ipv6=1
net.ipv6.conf.default.disable_ipv6=1
net.ipv4.conf.all.rp_filter=0
net.ipv4.conf.default.rp_filter=0
net.ipv4.conf.all.send_redirects=0
net.ipv4.conf.default.send_redirects=0
"""
#: What `ip` and `tc` print where the kernel does not know a kind of device or of queue.
_UNKNOWN = (
    "Unknown device type",
    "qdisc kind is unknown",
    "Operation not supported",
    "Protocol not supported",
)


class Lacking(Exception):
    """This kernel does not have what the case is about."""


class Ground:
    """The namespaces of one case."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Ground:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def spaces(self, *names: str) -> tuple[Namespace, ...]:
        """New namespaces with nothing but loopback, which is up; no IPv6."""
        made = tuple(self._stack.enter_context(Namespace(name)) for name in names)
        for space in made:
            self.run(space, "sysctl", "-q", "-e", "-p", "-", text=_QUIET)
            self.ip(space, "link set lo up")
        return made

    def node(self, space: Namespace, *addresses: str) -> Node:
        """A namespace to run programs in; they end before it does."""
        node = Node(space.name, space, addresses, ())
        self._stack.callback(node.close)
        return node

    def at_end(self, undo: Callable[[], None]) -> None:
        """Called when the case is over, before what was made earlier goes."""
        self._stack.callback(undo)

    def ip(self, space: Namespace, *lines: str) -> None:
        """Commands of `ip`, without the word itself."""
        self.run(space, "ip", "-batch", "-", text="\n".join(lines) + "\n")

    def tc(self, space: Namespace, *lines: str) -> None:
        """Commands of `tc`, without the word itself."""
        self.run(space, "tc", "-batch", "-", text="\n".join(lines) + "\n")

    def needs_qdisc(self, space: Namespace, kind: str) -> None:
        """Raise :class:`Lacking` where the kernel does not know such a queue; nothing is changed."""
        # One that only misses an option is there.
        with suppress(AssertionError):
            self.tc(space, f"qdisc add dev lo root {kind}", "qdisc del dev lo root")

    def link(self, near: Namespace, near_name: str, far: Namespace, far_name: str, *, gro: bool = True,
             options: str = "") -> None:  # fmt: skip
        """A veth pair that is up at both ends. ``gro``: each end takes frames that are redirected to it."""
        peer = f"peer name {far_name} netns {far.pid}"
        self.ip(near, f"link add {near_name} {options} type veth {peer}", f"link set {near_name} up")
        self.ip(far, f"link set {far_name} up")
        if gro:
            for space, name in ((near, near_name), (far, far_name)):
                self.run(space, "ethtool", "-K", name, "gro", "on")

    def wire(self, near: Namespace, near_name: str, near_address: str, far: Namespace, far_name: str,
             far_address: str, *, gro: bool = True) -> None:  # fmt: skip
        """A veth pair with an address at each end."""
        self.link(near, near_name, far, far_name, gro=gro)
        self.address(near, near_name, near_address)
        self.address(far, far_name, far_address)

    def takes_frames_unseen(self, space: Namespace, name: str) -> None:
        """Let a veth take redirected frames without GRO, which would verify their checksums and remember it.

        What goes wrong with such a frame later, inside the same kernel, nobody would notice: no link is so.
        """

        def attach() -> None:
            loaded = self._stack.enter_context(BpfObject(YARDSTICKS))
            index = socket.if_nametoindex(name)
            self._stack.enter_context(attach_xdp(loaded.program("pass_only"), index, XdpMode.NATIVE))

        space.call(attach)
        self.run(space, "ethtool", "-K", name, "gro", "off")

    def address(self, space: Namespace, name: str, address: str) -> None:
        self.ip(space, f"address add {address}/24 dev {name}", f"link set {name} up")

    def run(self, space: Namespace, *command: str, text: str = "") -> str:
        """Run a command in a namespace; its output. Raises :class:`Lacking` or AssertionError."""
        done = subprocess.run(
            ("nsenter", f"--net={space.path}", "--", *command),
            input=text, capture_output=True, text=True, check=False, timeout=LIMIT,
        )  # fmt: skip
        if done.returncode and any(words in done.stderr for words in _UNKNOWN):
            failed = re.search(r"Command failed -:(\d+)", done.stderr)
            line = text.splitlines()[int(failed[1]) - 1] if failed else " ".join(command[1:])
            raise Lacking(f"{command[0]} {line}: {done.stderr.strip().splitlines()[0]}")
        assert done.returncode == 0, f"{command} {text}: {done.stderr}"
        return done.stdout
