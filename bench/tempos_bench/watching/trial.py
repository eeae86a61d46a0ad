"""One watcher beside one act: does it work at all, how much does it see, what does it cost both of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from tempos_bench.nodes.patience import patience
from tempos_bench.runs.rounds import cores
from tempos_bench.watching.watchers import Watcher

_ACTS = Path(__file__).with_name("acts.py")
#: Names of the program that is watched, and of the one that finds out whether anybody watches.
WATCHED, PROBE = "obs-load", "obs-probe"
#: Seconds that a tool has until it tells of a known event, and until it has told all; between two looks.
_READY, _TOLD, _LOOK = patience(20.0), patience(5.0), 0.05
#: "lost 109 events on CPU #0", "Lost 3 events", "LOST 5 events!", "# 4.4 s; lost: 2 rows".
_LOST = re.compile(r"\blost:? \d+ .*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Trial:
    """``why_not``: it does not work here. ``seen``: events, or counted; ``told``: what it says it lost.

    ``seconds``: what the acts without pause took; ``cpu``: the tool's, from when it was ready.
    """

    seconds: float
    seen: int = 0
    cpu: float = 0.0
    told: str = ""
    why_not: str = ""


class Acting:
    """The program that is watched."""

    def __init__(self, act: str, name: str, count: int, rate: float) -> None:
        core = str(cores()[0])
        self._process = subprocess.Popen(
            ["taskset", "-c", core, sys.executable, "-S", _ACTS, act, name, str(count), str(rate)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._process.stdout.readline()

    @property
    def pid(self) -> int:
        return self._process.pid

    def go(self) -> float:
        """Let it act; seconds of the part without pause."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


def alone(act: str, count: int, rate: float) -> Trial:
    """The act with nobody watching."""
    with ExitStack() as stack:
        acting = Acting(act, WATCHED, count, rate)
        stack.callback(acting.close)
        return Trial(acting.go())


def watched(watcher: Watcher, act: str, count: int, rate: float) -> Trial:
    """The act with this watcher."""
    if missing := watcher.missing:
        return Trial(0.0, why_not=f"{missing} is not installed")
    with ExitStack() as stack:
        out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tempos-bench-")), "out")
        file = stack.enter_context(out.open("wb"))
        acting = Acting(act, WATCHED, count, rate)
        stack.callback(acting.close)
        tool = subprocess.Popen(
            ["taskset", "-c", str(cores()[1]), *watcher.started(acting.pid)], stdout=file,
            stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
        )  # fmt: skip
        stack.callback(_end, tool)
        if why_not := _until_it_works(tool, out, act, attaches=watcher.attaches):
            return Trial(0.0, why_not=why_not)
        before = _cpu(tool.pid)
        seconds = acting.go()
        if not watcher.attaches:
            _until_it_is_told(out, watcher, count * (2 if rate else 1))
        cpu = _cpu(tool.pid) - before
        _end(tool)
        text = out.read_text(errors="replace")
        return Trial(seconds, _seen(text, watcher), cpu, _lost(text))


def _until_it_works(tool: subprocess.Popen[bytes], out: Path, act: str, *, attaches: bool) -> str:
    """Why it does not; empty: it has told of what it should see, or that it is attached."""
    end = time.monotonic() + _READY
    while time.monotonic() < end:
        if tool.poll() is not None:
            return _complaint(out.read_text(errors="replace")) or f"it ended with exit code {tool.returncode}"
        if attaches:
            if "attached" in out.read_text(errors="replace"):
                return ""
        else:
            probe = Acting(act, PROBE, 1, 0)
            probe.go()
            probe.close()
            if PROBE in out.read_text(errors="replace"):
                return ""
        time.sleep(_LOOK)
    return "it tells nothing of what happens"


def _until_it_is_told(out: Path, watcher: Watcher, count: int) -> None:
    """Until all is told, or nothing more comes."""
    end, size, still = time.monotonic() + _TOLD, -1, time.monotonic()
    while time.monotonic() < end:
        now = out.stat().st_size
        if now != size:
            size, still = now, time.monotonic()
        elif time.monotonic() - still > (2.5 if watcher.counts else 1.0):
            return
        if not watcher.counts and _seen(out.read_text(errors="replace"), watcher) >= count:
            return
        time.sleep(_LOOK)


def _seen(text: str, watcher: Watcher) -> int:
    """Lines of what was watched, or the number that the last one has."""
    if watcher.attaches:
        # % time, seconds, usecs/call, calls, errors where there are any, syscall
        totals = [line.split() for line in text.splitlines() if line.endswith(" total")]
        return int(totals[-1][3]) if totals else 0
    lines = [line for line in text.splitlines() if WATCHED in line]
    if not watcher.counts:
        return len(lines)
    numbers = [line.replace(",", " ").replace("]:", " ").split() for line in lines]
    # tempos: PID NAME IPVER MIN_FLT ...; bpftrace: @[PID, NAME]: COUNT.
    found = [int(words[3] if words[0].isdigit() else words[-1]) for words in numbers if _is_count(words)]
    return max(found, default=0)


def _is_count(words: list[str]) -> bool:
    return len(words) == 7 or words[0].startswith("@")


def _lost(text: str) -> str:
    """What the tool itself says of losses, in its last line that does."""
    told = [found[0].strip() for line in text.splitlines() if (found := _LOST.search(line))]
    return told[-1][:80] if told else ""


def _complaint(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [
        line
        for line in lines
        if any(word in line.lower() for word in ("error", "failed", "unable", "no such"))
    ]
    return next((line for line in telling if "MEMLOCK" not in line), lines[-1] if lines else "")[:90]


def _cpu(pid: int) -> float:
    """Seconds that the threads of a process, and of those below it, have run."""
    total = 0.0
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0]) / 1e9
            for child in (task / "children").read_text().split():
                total += _cpu(int(child))
    return total


def _end(tool: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        if tool.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(tool.pid, number)
            with suppress(subprocess.TimeoutExpired):
                tool.wait(patience(10.0))
