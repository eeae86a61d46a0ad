"""In the guest, as its first process: mounts what a Linux has, runs the job's steps, hands back the results.

Needs nothing but the standard library. Every line for the host begins with "guest: "; each step's outcome is
written to the results' disk as soon as there is one, so what hangs later takes nothing away.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tests"))

from stock.job import Step, from_text  # noqa: E402 - the path comes first

JOB, OUT = Path("/dev/vdd"), Path("/dev/vde")
RESULTS = Path("/run/results")
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
}


def say(line: str) -> None:
    """A line for the host."""
    sys.stdout.write(f"guest: {line}\n")
    sys.stdout.flush()


def main() -> None:
    """Do the job, then power off, whatever happened."""
    try:
        _prepare()
        for step in from_text(JOB.read_bytes().rstrip(b"\0").decode()):
            _run(step)
            _hand_back()
    # The host is told, and the machine must end in any case.
    except BaseException as error:  # noqa: BLE001
        say(f"failed: {error!r}")
    os.sync()
    Path("/proc/sysrq-trigger").write_text("o")
    signal.pause()


def _prepare() -> None:
    for kind, place in _MOUNTS:
        # Folders below a mount that exists by now; those of the kernel's own trees are there or not.
        if not place.startswith("/sys"):
            Path(place).mkdir(parents=True, exist_ok=True)
        done = subprocess.run(("mount", "-t", kind, kind, place), check=False, capture_output=True, text=True)
        if done.returncode:
            say(f"no {kind}: {done.stderr.strip()}")
    for command in (("hostname", "guest"), ("ip", "link", "set", "lo", "up")):
        subprocess.run(command, check=False)
    RESULTS.mkdir()
    say(f"kernel {os.uname().release}")


def _run(step: Step) -> None:
    say(f"begin {step.name}")
    command = [word.replace("{results}", str(RESULTS)) for word in step.command]
    began = time.monotonic()
    with (RESULTS / f"{step.name}.out").open("wb") as out:
        # A session of its own, so that all of it can be ended.
        process = subprocess.Popen(command, cwd=TREE, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
        code: int | None = None
        while code is None:
            code = _ended(process.pid, began + step.limit - time.monotonic())
            if code is None:
                say(f"{step.name} is over its limit of {step.limit:g} s")
                os.killpg(process.pid, signal.SIGKILL)
                code = _ended(process.pid, 10)
                code = -signal.SIGKILL if code is None else code
    seconds = time.monotonic() - began
    outcome = {"name": step.name, "code": code, "seconds": round(seconds, 1)}
    with (RESULTS / "steps.jsonl").open("a") as steps:
        steps.write(json.dumps(outcome) + "\n")
    say(f"end {step.name}: exit code {code}, {seconds:.0f} s")


def _ended(pid: int, limit: float) -> int | None:
    """Wait for a child, and bury whoever else ends meanwhile: the first process inherits all orphans."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    end = time.monotonic() + limit
    while True:
        while True:
            try:
                found, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return None
            if not found:
                break
            if found == pid:
                return os.waitstatus_to_exitcode(status)
        left = end - time.monotonic()
        if left <= 0:
            return None
        signal.sigtimedwait({signal.SIGCHLD}, min(left, 1.0))


def _hand_back() -> None:
    with OUT.open("wb") as disk, tarfile.open(fileobj=disk, mode="w") as archive:
        archive.add(RESULTS, arcname=".")
    os.sync()


if __name__ == "__main__":
    main()
