"""Runs a program on another host and does to it what standard input says.

    python -m tempos_bench.nodes.guard [--cpu N] [--text] -- COMMAND…

| line on standard input | does                                                              |
|------------------------|-------------------------------------------------------------------|
| `=` and a text         | writes the text to the program's standard input                   |
| `!` and a number       | sends that signal                                                 |
| the end                | the one who started us is gone: SIGTERM, and SIGKILL 5 s later    |

With `--text` the first line is a JSON string; the program finds it in the file that its command names
as `{text}`. Output goes straight through; a line on standard error tells the program's process id. The exit
code is the program's, 128 and the number for a signal.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from typing import TextIO

#: Before the program's process id, in the one line that this writes to standard error.
PID_LINE = "guard: pid "
_TEXT_FILE = "{text}"
_PATIENCE = 5.0


def main() -> int:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.nodes.guard", description=__doc__)
    parser.add_argument("--cpu", type=int)
    parser.add_argument("--text", action="store_true")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    if args.cpu is not None:
        os.sched_setaffinity(0, {args.cpu})
    command: list[str] = args.command
    fds: tuple[int, ...] = ()
    if args.text:
        memory = os.memfd_create("text")
        os.write(memory, json.loads(sys.stdin.readline()).encode())
        command = [part.replace(_TEXT_FILE, f"/proc/self/fd/{memory}") for part in command]
        fds = (memory,)
    program = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        pass_fds=fds,
        start_new_session=True,
        text=True,
    )
    print(f"{PID_LINE}{program.pid}", file=sys.stderr, flush=True)
    threading.Thread(target=_obey, args=(sys.stdin, program), daemon=True).start()
    code = program.wait()
    return code if code >= 0 else 128 - code


def _obey(lines: TextIO, program: subprocess.Popen[str]) -> None:
    assert program.stdin is not None
    for line in lines:
        if line.startswith("="):
            try:
                program.stdin.write(line[1:])
                program.stdin.flush()
            except (BrokenPipeError, ValueError):
                # It ended meanwhile, which its exit code tells.
                continue
        elif line.startswith("!"):
            program.send_signal(int(line[1:]))
    program.terminate()
    try:
        program.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        program.send_signal(signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
