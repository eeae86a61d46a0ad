"""Talks to a measuring process in a node: attaches yardsticks, counts frames, sends live ones.

The process is `python -m tempos_fastpath.measure`; this package never imports the fast path. What the
kernel knows of a program it tells through the file descriptors of the process that holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempos import Unavailable
from tempos_bench.nodes.node import PYTHON, Node, ProgramFailed
from tempos_bench.programs.rehearsal import Asked

#: Where the build leaves the BPF objects of this package.
OBJECTS = Path(__file__).parents[1]
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
        self._node = node
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
        found = list(_held(self._node, pid).values())
        names = self._ask("names", programs=[each.id for each in found])["names"]
        return dict(zip(names, found, strict=True))

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._program.ask({"do": command, **arguments})
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer


def planned(asked: Asked) -> dict[str, Any]:
    """What a plan takes for an answer of the measuring process."""
    return {"program_id": 1, "frames": 0, "seconds": 1.0, "names": []}


def macs(*addresses: str) -> bytes:
    """MACs one behind the other, as programs take them."""
    return bytes.fromhex("".join(addresses).replace(":", ""))


def figures(node: Node, pid: int, program_id: int) -> ProgramFigures:
    """Figures of a BPF program that process ``pid`` of ``node`` holds open, from the kernel's account."""
    held = _held(node, pid)
    if program_id not in held:
        raise Unavailable(f"process {pid} holds no BPF program with id {program_id}")
    return held[program_id]


def _held(node: Node, pid: int) -> dict[int, ProgramFigures]:
    """The BPF programs that a process holds open, by id."""
    found: dict[str, list[int]] = node.inquire("programs", pid=pid)
    return {int(number): ProgramFigures(int(number), *values) for number, values in found.items()}


def attached_program(node: Node, interface: str) -> int:
    """The id of the XDP program that an interface of ``node`` carries; 0 if none."""
    return int(node.inquire("XDP program", name=interface))
