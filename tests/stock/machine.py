"""One boot: qemu with a kernel, the root, the tree and a job, until the guest powers off or time is up.

Without a network card. The guest's disks forget what was written to them, but for the one with the results.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.archives import unpack

from stock import guest, job
from stock.accelerator import Accelerator
from stock.kernels import Kernel

_RESULTS_SIZE = 256 << 20
_JOB_SIZE = 1 << 20
_MEMORY = "4G"
# No check of the timer: on a busy machine an emulated one misses its ticks, and the kernel gives up.
_CONSOLE = "console=ttyS0 quiet panic=-1 no_timer_check mitigations=off net.ifnames=0 nokaslr"
#: To boot and to shut down, beside the steps' own limits.
_SLACK = 300.0
_PREFIX = "guest: "
#: Below other work of this machine, for nobody waits for a frame here; and over when we are, however we end.
_CAREFULLY = ("nice", "-n", "5", "setpriv", "--pdeathsig", "TERM")


@dataclass(frozen=True)
class Boot:
    """What came of one: how long it took, whether the guest came to its end by itself, the guest's lines."""

    seconds: float
    ended: bool
    lines: tuple[str, ...]


def boot(kernel: Kernel, disks: tuple[Path, Path], runs: Accelerator, steps: Sequence[job.Step],
         results: Path, heard: Callable[[str], None]) -> Boot:  # fmt: skip
    """Boot and run ``steps``; their results are in the folder ``results`` afterwards.

    ``disks``: the root and the tree. ``heard`` is told each line of the guest for us; all of its console
    is in `console.txt` there.
    """
    results.mkdir(parents=True, exist_ok=True)
    job_disk, out_disk = results / "job.img", results / "out.img"
    for path, content, size in ((job_disk, job.to_text(steps), _JOB_SIZE), (out_disk, "", _RESULTS_SIZE)):
        path.write_text(content)
        os.truncate(path, size)
    began = time.monotonic()
    with subprocess.Popen(
        (*_CAREFULLY, *_command(kernel, disks, runs, job_disk, out_disk)),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        limit = threading.Timer(sum(step.limit for step in steps) + _SLACK, process.kill)
        limit.start()
        try:
            lines = _listen(process, results / "console.txt", heard)
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            limit.cancel()
            process.wait()
            _unpack(out_disk, results)
            for path in (job_disk, out_disk):
                path.unlink()
    return Boot(time.monotonic() - began, code == 0 and guest.DONE in lines, lines)


def _command(kernel: Kernel, disks: tuple[Path, Path], runs: Accelerator,
             job_disk: Path, out_disk: Path) -> tuple[str, ...]:  # fmt: skip
    drives = (
        *((path, "snapshot=on") for path in (*disks, kernel.modules)),
        *((path, "snapshot=off") for path in (job_disk, out_disk)),
    )
    cpus = str(min(os.cpu_count() or 1, 4))
    return (
        "qemu-system-x86_64", "-machine", "q35", "-m", _MEMORY, "-smp", cpus, *runs.options,
        "-nodefaults", "-no-reboot", "-display", "none", "-nic", "none", "-serial", "stdio",
        "-kernel", str(kernel.image), "-initrd", str(kernel.initrd),
        "-append", f"{_CONSOLE} TEMPOS_PATIENCE={runs.patience}",
        *(word for path, snapshot in drives
          for word in ("-drive", f"file={path},format=raw,if=virtio,cache=unsafe,{snapshot}")),
    )  # fmt: skip


def _listen(process: subprocess.Popen[bytes], console: Path, heard: Callable[[str], None]) -> tuple[str, ...]:
    lines = []
    assert process.stdout is not None
    with console.open("wb") as file:
        for raw in process.stdout:
            file.write(raw)
            file.flush()
            _, found, line = raw.decode(errors="replace").strip().partition(_PREFIX)
            if found:
                lines.append(line)
                heard(line)
    return tuple(lines)


def _unpack(disk: Path, results: Path) -> None:
    try:
        with tarfile.open(disk) as archive:
            unpack(archive, results)
    except tarfile.ReadError:
        pass  # the guest wrote nothing: the boot failed, and its lines tell
