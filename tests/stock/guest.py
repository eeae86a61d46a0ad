"""In the guest, as its first process: mounts what a Linux has, runs the job's steps, hands back the results.

Needs nothing but the standard library. Every line for the host begins with "guest: "; what came of the steps
is put on the results' disk with each, so what hangs, or is broken off, takes little away.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tests"))

from stock import work  # noqa: E402 - the path comes first
from stock.job import TEST_LIMIT, from_text  # noqa: E402

JOB, OUT = Path("/dev/vdd"), Path("/dev/vde")
RESULTS = Path("/run/results")
#: The last line for the host: a kernel that gives up ends the machine, too.
DONE = "done"
_MOUNTS = (
    ("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run"), ("tmpfs", "/tmp"),
    ("devpts", "/dev/pts"), ("tmpfs", "/dev/shm"), ("bpf", "/sys/fs/bpf"),
    ("tracefs", "/sys/kernel/tracing"), ("debugfs", "/sys/kernel/debug"), ("cgroup2", "/sys/fs/cgroup"),
)  # fmt: skip
#: As in a session of an operator; CI=true: what a test needs must be there, nothing is left out quietly.
_ENVIRONMENT = {
    "PATH": f"{TREE}/.venv/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "CI": "true",
    # For tests that somebody runs by themselves; the steps say it.
    "PYTEST_TIMEOUT": str(TEST_LIMIT),
    # What the kernel does not know of its command line, it hands to its first process.
    "TEMPOS_PATIENCE": os.environ.get("TEMPOS_PATIENCE", ""),
}


def say(line: str) -> None:
    """A line for the host."""
    sys.stdout.write(f"guest: {line}\n")
    sys.stdout.flush()


def main() -> None:
    """Do the job in a child, bury whoever is left to the first process meanwhile, then power off."""
    worker = os.fork()
    if not worker:
        _work()
        os._exit(0)
    while os.wait()[0] != worker:
        pass
    os.sync()
    Path("/proc/sysrq-trigger").write_text("o")
    signal.pause()


def _work() -> None:
    try:
        _prepare()
        steps = from_text(JOB.read_bytes().rstrip(b"\0").decode())
        work.run_all(steps, TREE, RESULTS, _ENVIRONMENT, _tell)
        say(DONE)
    # The host is told, and the machine must end in any case.
    except BaseException as error:  # noqa: BLE001
        say(f"failed: {error!r}")


def _prepare() -> None:
    for kind, place in _MOUNTS:
        # Folders of the kernel's own trees are there, or this kernel has nothing to mount there.
        if not place.startswith("/sys"):
            Path(place).mkdir(parents=True, exist_ok=True)
        done = subprocess.run(("mount", "-t", kind, kind, place), check=False, capture_output=True, text=True)
        if done.returncode:
            say(f"no {kind}: {done.stderr.strip()}")
    for command in (("hostname", "guest"), ("ip", "link", "set", "lo", "up")):
        subprocess.run(command, check=False)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        Path("/dev", name).symlink_to(f"/proc/self/{target}")
    RESULTS.mkdir()
    say(f"kernel {os.uname().release}")


def _tell(line: str) -> None:
    """A line for the host about a step, and all results as they are then."""
    say(line)
    _hand_back()


def _hand_back() -> None:
    with OUT.open("wb") as disk, tarfile.open(fileobj=disk, mode="w") as archive:
        archive.add(RESULTS, arcname=".")
    os.sync()


if __name__ == "__main__":
    main()
