"""The function that events are for, the events it is called with, and the account of who ran it."""

from __future__ import annotations

import math
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tempos_bench.calls import event
from tempos_bench.calls.count import count
from tempos_bench.calls.ends import Programs
from tempos_bench.measure import samples
from tempos_bench.nodes import process
from tempos_bench.nodes.node import local
from tempos_bench.peers.library import Plan, Recorder, taker

FILLER = event.FORM.filler(event.SIZE)
#: What the function gives: powers and square roots of the occurrences' numbers, in turn.
RESULT = sum(math.sqrt(n) if n % 2 else n**2 for n in range(event.OCCURRENCES))


def body(sequence: int, run: int = 1, sent_ns: int = 5) -> bytes:
    return event.FORM.pack(sent_ns, sequence, run) + FILLER


def test_an_event_has_its_size_and_gives_its_mark_back() -> None:
    most = (2**63, 2**32 - 1, 2**32 - 1)
    for mark in ((1, 2, 3), most):
        made = event.FORM.pack(*mark) + FILLER
        assert len(made) == event.SIZE
        assert event.FORM.unpack_from(b"before" + made, 6) == mark
    with pytest.raises(ValueError, match="no room"):
        event.FORM.filler(100)


def test_the_function_is_the_same_in_python_and_as_a_program(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, program, lines = Path(event.__file__).with_name("count.c"), tmp_path / "count", tmp_path / "lines"
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source, "-lm"], check=True)
    lines.touch()

    def run(data: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([program, lines], input=data, capture_output=True, check=False)

    before = time.time_ns()
    assert run(body(7, run=3)).stdout == count(body(7)) == struct.pack("<d", RESULT)
    assert run(b'{"message": "abc"}').returncode == 65
    (line,) = lines.read_bytes().splitlines()
    assert event.numbers(line, 0) == (5, 7, 3)
    assert before <= int(line[-20:]) <= time.time_ns()


def test_who_subscribes_calls_the_function_before_the_recorder_has_the_event() -> None:
    recorder = Recorder(event.FORM)
    plan = Plan(
        {"size": event.SIZE, "run": 4, "seconds": 0.01, "rate": 1000.0, "begin_ns": 0, "full": False},
        event.FORM,
    )
    plan.began_ns = time.monotonic_ns() - 10**9
    take = taker(recorder, calls_function=True)
    assert [take(each) for each in plan.those_due()] == [struct.pack("<d", RESULT)] * 10
    with pytest.raises(ValueError, match="Expecting value"):
        take(b"no event")
    assert recorder.account(4, event.SIZE, 100)["received"] == 10


def test_programs_are_accounted_by_what_they_appended(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.touch()
    node = local()
    subject = Programs(node.start((sys.executable, "-c", "")), lines)
    assert subject.ask({"size": event.SIZE, "run": 2, "idle": 0.05, "room": 10}) == {"begun": True}
    told = [(1000, 0, 2, 4000), (2000, 1, 2, 9000), (2000, 1, 2, 9500), (1, 0, 1, 10**6)]
    lines.write_text("".join(f"{sent:020d}{seq:010d}{run:010d}{at:020d}\n" for sent, seq, run, at in told))
    found = subject.ask("end")
    counts = [found[name] for name in ("received", "repeated", "stale", "first_ns", "last_ns")]
    assert counts == [2, 1, 1, 4000, 9500]
    assert list(samples.unpack(found["latency"])) == [3000, 7000, 7500]
    node.close()


BURN = "import time\nwhile time.process_time() < 0.4: pass"


def test_a_family_has_the_time_of_those_that_run_and_those_that_have_ended() -> None:
    waits = f"{BURN}\nprint(1, flush=True)\ninput()"
    parent = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {BURN!r}])\n"
        f"child = subprocess.Popen([sys.executable, '-c', {waits!r}], stdin=subprocess.PIPE)\n"
        "input(); child.communicate(b'')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline()
        (alone,), (family,) = process.used([program.pid]), process.used([program.pid], families=True)
        # What has ended is told in hundredths of a second.
        assert 0.75 < family - alone < 3
        program.communicate("\n")
    assert process.used([os.getpid()], families=True) >= process.used([os.getpid()])
