"""What runs the guest's code: this machine's own processor by KVM where that works, else qemu's emulation.

That /dev/kvm is there says little: a virtual machine may have one that runs but a few kernels, or none in
time. So it is tried: a kernel without a disk has to come so far that it misses one. What came of it is kept
until the machine starts anew. TEMPOS_ACCEL, tcg or kvm, spares the attempt.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stock import cache
from stock.needs import Missing

DEVICE = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: Seconds; where it works it takes three.
_LIMIT = 20.0
#: What a kernel says that finds no root; then it wants to start anew, which ends qemu.
_MISSES_ITS_DISK = b"Unable to mount root fs"


@dataclass(frozen=True)
class Accelerator:
    """``options``: for qemu. ``patience``: how many times as long as on a plain machine things may take.

    ``why``: why it is this one.
    """

    name: str
    options: tuple[str, ...]
    patience: int
    why: str

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


def _emulation(why: str) -> Accelerator:
    return Accelerator(
        "emulation", ("-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max,la57=off"), 6, why
    )


def _own(why: str) -> Accelerator:
    return Accelerator("KVM", ("-accel", "kvm", "-cpu", "host"), 2, why)


def choose(kernel: Path, *, qemu: str = "qemu-system-x86_64") -> Accelerator:
    """The best that works here, tried with the image ``kernel``; :class:`Missing` for an unknown name."""
    told = os.environ.get("TEMPOS_ACCEL", "")
    if told:
        named = {"tcg": _emulation, "kvm": _own}.get(told)
        if named is None:
            raise Missing(f"TEMPOS_ACCEL={told}: it is tcg or kvm")
        return named("TEMPOS_ACCEL says so")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return _emulation(f"{DEVICE} cannot be had")
    fault = _known_fault(kernel, qemu)
    return _emulation(f"with KVM {fault}") if fault else _own("it was tried")


def _known_fault(kernel: Path, qemu: str) -> str:
    """What is wrong with KVM here; empty if nothing is. Tried once a start of this machine."""

    def attempt(place: Path) -> None:
        print("trying whether KVM runs such a kernel", flush=True)
        (place / "fault").write_text(fault((qemu, *_own("").options), kernel))

    place = cache.entry("accelerator", cache.digest(_BOOT_ID.read_text(), qemu), attempt)
    return (place / "fault").read_text()


def fault(qemu: Sequence[str], kernel: Path, limit: float = _LIMIT) -> str:
    """Boot ``kernel`` with nothing; why it did not come to where it misses its disk, or nothing."""
    command = (
        *qemu, "-machine", "q35", "-m", "512M", "-smp", "1", "-nodefaults", "-no-reboot", "-display", "none",
        "-nic", "none", "-serial", "stdio", "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1",
    )  # fmt: skip
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=limit, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"a kernel had not started within {limit:g} s"
    if done.returncode == 0 and _MISSES_ITS_DISK in done.stdout:
        return ""
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    return f"qemu ended with {done.returncode}: {lines[0] if lines else 'it said nothing'}"
