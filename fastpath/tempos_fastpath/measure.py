"""Measuring programs for one node, as a process of its own: `python -m tempos_fastpath.measure OBJECTS`.

The benchmarks may not import this package, so they start this in a node and talk to it in JSON lines:
one command in, one answer out, `{"error": text}` where the kernel refused. It prints `ready` first and
ends, with everything it attached, when its input ends. OBJECTS is the folder of the BPF objects.

| command    | takes                          | does, answers                                           |
|------------|--------------------------------|---------------------------------------------------------|
| attach     | program, interface,            | puts a yardstick on an interface; constants are the     |
|            | redirect_to, constants (hex),  | program's own, by name: program_id                      |
|            | mode (native, generic), copies |                                                         |
| detach     |                                | takes it off again                                      |
| count      |                                | IPv4 frames that `count_and_drop` has seen: frames      |
| prepare    | frame (hex), interface         | what `generate` sends, and through which interface      |
| generate   | frames, batch                  | sends so many live frames: seconds                      |
| statistics | on                             | run counts and times of all BPF programs, while we live |
| names      | programs (ids)                 | what the kernel calls them: names                       |
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tempos import TemposError
from tempos_bpf.links import XdpMode, attach_xdp, program_name
from tempos_bpf.maps import Map, MapType, create_map
from tempos_bpf.objects import BpfObject, statistics

#: As much of a frame as `generate` puts back each time.
_HEAD_LEN = 72


class Measuring:
    """What this process has loaded and attached. Each command is a method; the answer is its result."""

    def __init__(self, objects: Path) -> None:
        self._objects = objects
        self._attached = contextlib.ExitStack()
        self._yardsticks: BpfObject | None = None
        self._generator: BpfObject | None = None
        self._statistics = contextlib.ExitStack()
        self._frame = b""
        self.commands: dict[str, Callable[..., dict[str, Any]]] = {
            "attach": self.attach,
            "detach": self.detach,
            "count": self.count,
            "prepare": self.prepare,
            "generate": self.generate,
            "statistics": self.statistics,
            "names": self.names,
        }

    def attach(
        self,
        program: str,
        interface: str,
        redirect_to: str | None = None,
        constants: dict[str, str] | None = None,
        mode: str = "native",
        copies: int = 1,
    ) -> dict[str, Any]:
        self.detach()
        rodata = {name: bytes.fromhex(value) for name, value in (constants or {}).items()}
        share = {"copies": self._attached.enter_context(_devmap(redirect_to, copies))}
        loaded = BpfObject(self._objects / "yardsticks.bpf.o", rodata, share)
        self._attached.callback(loaded.close)
        if redirect_to is not None:
            _set_egress(loaded, redirect_to)
        chosen = loaded.program(program)
        self._attached.enter_context(attach_xdp(chosen, socket.if_nametoindex(interface), XdpMode(mode)))
        self._yardsticks = loaded
        return {"program_id": chosen.info().id}

    def detach(self) -> dict[str, Any]:
        self._attached.close()
        self._yardsticks = None
        return {}

    def count(self) -> dict[str, Any]:
        if self._yardsticks is None:
            raise TemposError("nothing is attached that counts")
        per_cpu = self._yardsticks.map("counted").lookup_per_cpu(0) or ()
        return {"frames": sum(int.from_bytes(value, sys.byteorder) for value in per_cpu)}

    def prepare(self, frame: str, interface: str) -> dict[str, Any]:
        self._frame = bytes.fromhex(frame)
        if len(self._frame) < _HEAD_LEN:
            raise TemposError(f"a frame of {len(self._frame)} bytes, {_HEAD_LEN} are needed")
        if self._generator is not None:
            self._generator.close()
        rodata = {"head": self._frame[:_HEAD_LEN]}
        self._generator = BpfObject(self._objects / "generate.bpf.o", rodata=rodata)
        _set_egress(self._generator, interface)
        return {}

    def generate(self, frames: int, batch: int = 64) -> dict[str, Any]:
        if self._generator is None:
            raise TemposError("no frame is prepared")
        program = self._generator.program("generate")
        began = time.perf_counter()
        program.run_live(self._frame, repeat=frames, ingress_ifindex=0, batch=batch)
        return {"seconds": time.perf_counter() - began}

    def statistics(self, on: bool) -> dict[str, Any]:
        self._statistics.close()
        if on:
            self._statistics.enter_context(statistics())
        return {}

    def names(self, programs: Sequence[int]) -> dict[str, Any]:
        return {"names": [program_name(each) for each in programs]}

    def close(self) -> None:
        """Detach and release everything."""
        self.detach()
        self._statistics.close()
        if self._generator is not None:
            self._generator.close()


def _devmap(interface: str | None, slots: int) -> Map:
    """A devmap whose slots all lead to one interface, or nowhere."""
    made = create_map("copies", MapType.DEVMAP, key_size=4, value_size=4, max_entries=slots)
    if interface is not None:
        for slot in range(slots):
            made.update(slot, socket.if_nametoindex(interface).to_bytes(4, sys.byteorder))
    return made


def _set_egress(loaded: BpfObject, interface: str) -> None:
    loaded.map("egress").update(0, socket.if_nametoindex(interface).to_bytes(4, sys.byteorder))


def main() -> None:
    """Serve commands until the input ends."""
    parser = argparse.ArgumentParser(prog="tempos_fastpath.measure")
    parser.add_argument("objects", type=Path)
    measuring = Measuring(parser.parse_args().objects)
    print("ready", flush=True)
    try:
        for line in sys.stdin:
            command = json.loads(line)
            try:
                answer = measuring.commands[command.pop("do")](**command)
            except (TemposError, OSError) as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)
    finally:
        measuring.close()


if __name__ == "__main__":
    main()
