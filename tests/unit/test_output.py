"""What a command prints is all there, whoever interrupts it and however its standard output was opened."""

from __future__ import annotations

import io
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tempos import _output

_LINE = '{"type": "event"}'
_LINES = 20_000
#: A long text in one piece, as a command prints what has come at once. It takes a signal in between.
_PRINTS = f"""
import os, signal, sys
from tempos._output import make_whole
signal.signal(signal.SIGUSR1, lambda *_: None)
os.set_blocking(1, len(sys.argv) == 1)
make_whole()
print("ready", flush=True)
for _ in range(3):
    print("\\n".join([{_LINE!r}] * {_LINES}), flush=True)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
"""


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "non-blocking"])
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_long_text_arrives_whole_however_often_a_signal_interrupts_it(
    unbuffered: str, blocking: bool
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _PRINTS, *([] if blocking else ["non-blocking"])],
        stdout=subprocess.PIPE, bufsize=0, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout as out:
        assert out.readline() == b"ready\n"
        found = []
        while piece := out.read(5000):
            found.append(piece)
            process.send_signal(signal.SIGUSR1)
    assert process.wait() == 0
    assert b"".join(found).decode().splitlines() == [_LINE] * 3 * _LINES


@pytest.mark.parametrize("unbuffered", [False, True], ids=["buffered", "unbuffered"])
def test_nothing_is_printed_twice_wherever_an_interrupt_comes(unbuffered: bool) -> None:
    """A reader may answer a line by an interrupt before who printed it knows that it is gone."""
    into, out = os.pipe()
    raw = io.FileIO(out, "wb", closefd=False)
    bare = io.TextIOWrapper(raw if unbuffered else io.BufferedWriter(raw), write_through=unbuffered)  # type: ignore[arg-type]
    whole = _output.rewritten(bare)
    for number in itertools.count():
        passed = 0

        def interrupt(frame: FrameType, event: str, _: Any, number: int = number) -> Any:
            nonlocal passed
            if frame.f_code.co_filename != _output.__file__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                if passed == number:
                    raise KeyboardInterrupt
                passed += 1
            return interrupt

        interrupted = False
        sys.settrace(interrupt)
        try:
            whole.write("a line\n")
            whole.flush()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(None)
        whole.write("the end\n")
        whole.flush()
        found = os.read(into, 1000)
        assert found in (b"a line\nthe end\n", b"the end\n"), number
        if not interrupted:
            assert found.startswith(b"a line")
            break
    assert number > 10
    for fd in (into, out):
        os.close(fd)


_TELLS = """
import os, socket, subprocess, sys
from tempos._output import make_whole
make_whole()
print("to nobody", flush=True)
sock = socket.socket()
child = subprocess.run([sys.executable, "-c", "import os; [os.fstat(number) for number in range(3)]"])
with open(sys.argv[1], "w") as file:
    file.write(f"{sock.fileno() > 2} {child.returncode} {[os.isatty(number) for number in range(3)]}")
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_standard_file_that_is_not_there_leads_nowhere(closed: str, tmp_path: Path) -> None:
    command = ("sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", _TELLS, str(tmp_path / "told"))
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "told").read_text() == "True 0 [False, False, False]"
