"""Runs a job's steps, in the guest or on this machine itself. Needs nothing but the standard library.

A step's output is NAME.out in the folder of results, and what came of all of them a line each in steps.jsonl.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from stock.job import RESULTS, Done, Step

Say = Callable[[str], None]
STEPS, ROWS = "steps.jsonl", "rows.jsonl"
#: Seconds between two words about a step that goes on.
_WORD_EVERY = 60.0


def run_all(steps: Sequence[Step], tree: Path, results: Path, environment: Mapping[str, str],
            say: Say) -> list[Done]:  # fmt: skip
    """Run all steps, those that are to go beside others with them; ``say`` is called by one at a time."""
    done: list[Done] = []
    one_at_a_time = threading.Lock()

    def tell(line: str) -> None:
        with one_at_a_time:
            say(line)

    with ThreadPoolExecutor() as several:
        for together in _together(steps):
            done += several.map(lambda step: run(step, tree, results, environment, tell), together)
    return done


def _together(steps: Sequence[Step]) -> list[list[Step]]:
    found: list[list[Step]] = []
    for step in steps:
        if step.beside and found:
            found[-1].append(step)
        else:
            found.append([step])
    return found


def run(step: Step, tree: Path, results: Path, environment: Mapping[str, str], say: Say) -> Done:
    """Run one step to its end, or to its limit; ``say`` hears how it goes."""
    say(f"begin {step.name}")
    command = [word.replace(RESULTS, str(results)) for word in step.command]
    output = results / f"{step.name}.out"
    began = time.monotonic()
    with output.open("wb") as out:
        # A session of its own, so that all of it can be ended.
        process = subprocess.Popen(
            command,
            cwd=tree,
            env={**environment, "TEMPOS_ROWS": str(results / ROWS)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code = _wait(process, step, lambda: say(f"{step.name} goes on: {_last_line(output)}"))
        if code is None:
            say(f"{step.name} is over its limit of {step.limit:g} s")
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
    done = Done(step.name, code, round(time.monotonic() - began, 1), code in step.codes)
    with (results / STEPS).open("a") as steps:
        steps.write(json.dumps(asdict(done)) + "\n")
    say(f"end {step.name}: exit code {code}, {done.seconds:.0f} s: {_last_line(output)}")
    return done


def _wait(process: subprocess.Popen[bytes], step: Step, word: Callable[[], None]) -> int | None:
    end = time.monotonic() + step.limit
    while (left := end - time.monotonic()) > 0:
        try:
            return process.wait(min(left, _WORD_EVERY))
        except subprocess.TimeoutExpired:
            word()
    return None


def _last_line(output: Path) -> str:
    lines = output.read_text(errors="replace").strip().splitlines()
    return lines[-1][:120] if lines else "no output"
