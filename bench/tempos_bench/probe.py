"""Talks to a measuring process in a node: attaches yardsticks, counts frames, sends live ones.

The process is `python -m tempos_fastpath.measure`; this package never imports the fast path. What the
kernel knows of a program it tells through the file descriptors of the process that holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempos import Unavailable
from tempos_bench.node import PYTHON, Node, ProgramFailed

#: Where the build leaves the BPF objects of this package.
OBJECTS = Path(__file__).parent
#: Live frames handed to the kernel in one call: no command lasts much longer than a second.
MOST_FRAMES = 4_000_000


@dataclass(frozen=True, slots=True)
class ProgramFigures:
    """What the kernel says of a BPF program; time and count grow only while statistics are on."""

    id: int
    instructions: int
    runs: int
    run_time_ns: int


class Probe:
    """A measuring process in ``node``. Raises :class:`Unavailable` for whatever this machine refuses."""

    def __init__(self, node: Node, cpu: int | None = None) -> None:
        command = (PYTHON, "-m", "tempos_fastpath.measure", str(OBJECTS))
        self._program = node.start(command, cpu=cpu, talk=True)
        try:
            self._program.wait_line("ready", 15)
        except ProgramFailed as error:
            raise Unavailable(f"no BPF measuring here: {error}") from error

    @property
    def pid(self) -> int:
        return self._program.pid

    def attach(
        self,
        program: str,
        interface: str,
        redirect_to: str | None = None,
        constants: Mapping[str, bytes] | None = None,
        mode: str = "native",
        copies: int = 1,
    ) -> int:
        """Put a yardstick program on ``interface``; returns its id.

        ``redirect_to``: where the redirecting ones send; ``constants``: what the program itself is told;
        ``copies``: how many `broadcast_only` makes.
        """
        given = {name: value.hex() for name, value in (constants or {}).items()}
        answer = self._ask("attach", program=program, interface=interface, redirect_to=redirect_to,
                           constants=given, mode=mode, copies=copies)  # fmt: skip
        return int(answer["program_id"])

    def detach(self) -> None:
        """Take it off again."""
        self._ask("detach")

    def count(self) -> int:
        """IPv4 frames that `count_and_drop` has seen since it was attached."""
        return int(self._ask("count")["frames"])

    def prepare(self, frame: bytes, interface: str) -> None:
        """What :meth:`generate` sends, and the interface of this node that it leaves by."""
        self._ask("prepare", frame=frame.hex(), interface=interface)

    def generate(self, frames: int, batch: int = 64) -> float:
        """Send ``frames`` live frames, ``batch`` at a time; the seconds it took. All are processed then."""
        return float(self._ask("generate", frames=min(frames, MOST_FRAMES), batch=batch)["seconds"])

    def statistics(self, on: bool) -> None:
        """Let the kernel count runs and run time of every BPF program, until off or we end."""
        self._ask("statistics", on=on)

    def held_by(self, pid: int) -> dict[str, ProgramFigures]:
        """The programs that process ``pid`` holds open, by the kernel's names for them."""
        found = list(_held(pid).values())
        names = self._ask("names", programs=[each.id for each in found])["names"]
        return dict(zip(names, found, strict=True))

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._program.ask({"do": command, **arguments})
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer


def macs(*addresses: str) -> bytes:
    """MACs one behind the other, as programs take them."""
    return bytes.fromhex("".join(addresses).replace(":", ""))


def figures(pid: int, program_id: int) -> ProgramFigures:
    """Figures of a BPF program that process ``pid`` holds open, from the kernel's `fdinfo` of it."""
    held = _held(pid)
    if program_id not in held:
        raise Unavailable(f"process {pid} holds no BPF program with id {program_id}")
    return held[program_id]


def _held(pid: int) -> dict[int, ProgramFigures]:
    """The BPF programs that process ``pid`` holds open, by id."""
    held: dict[int, ProgramFigures] = {}
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        # A descriptor that closes while we look is none of those we look for.
        with suppress(FileNotFoundError):
            fields = dict(line.split(":", 1) for line in entry.read_text().splitlines() if ":" in line)
            if "verified_insns" in fields:
                number = int(fields["prog_id"])
                held[number] = ProgramFigures(
                    number,
                    int(fields["verified_insns"]),
                    int(fields["run_cnt"]),
                    int(fields["run_time_ns"]),
                )
    return held


def attached_program(node: Node, interface: str) -> int:
    """The id of the XDP program that an interface of ``node`` carries, by netlink; 0 if none."""
    from pyroute2 import IPRoute

    def work() -> int:
        with IPRoute() as ip:
            xdp = ip.get_links(ip.link_lookup(ifname=interface)[0])[0].get_attr("IFLA_XDP")
            return int(xdp.get_attr("IFLA_XDP_PROG_ID") or 0) if xdp else 0

    return node.call(work)
