"""A run of a tool from begin to end: what it needs, who may be watched, and that it ends whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.observing import LIMIT, Observed, acting, rows
from support.privileges import everybodys_python, require_kernel
from support.processes import still_alive

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def _privileged() -> None:
    require_kernel()


def tempos(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tempos", *arguments]


def observe(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        tempos("observe", *arguments), capture_output=True, text=True, timeout=LIMIT, check=False
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_however_it_is_told_to_end_it_shows_all_and_leaves_nothing(number: signal.Signals) -> None:
    with acting("udp_overflow", count=100) as acts, Observed("udploss") as tool:
        (done,) = acts.go()
        lost = [row["datagrams"] for row in rows(tool.stop(number), "losses") if row["pid"] == done["pid"]]
    assert lost == [done["lost"]]
    assert not still_alive({tool.pid}, 0)


def test_its_time_can_be_set_and_looks_in_between() -> None:
    done = observe("udploss", "--duration", "0.5", "--interval", "0.1")
    assert done.returncode == 0
    # As many as a busy machine lets it look.
    assert done.stdout.count("Datagrams lost:") >= 2
    assert done.stdout.splitlines()[-1].endswith("lost: nothing")


def test_who_reads_no_more_ends_it() -> None:
    process = subprocess.Popen(tempos("observe", "udploss"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"# udploss")
    process.stdout.close()
    _, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, errors) == (0, b"")


def test_without_privilege_it_says_what_it_needs() -> None:
    code = "import sys; from tempos.cli.main import main; sys.exit(main(['observe', 'udploss']))"
    done = subprocess.run(
        [*everybodys_python(), code], user=65534, group=65534, extra_groups=[], cwd="/",
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "tempos observe udploss: this needs root, or CAP_BPF and CAP_PERFMON\n"


def test_who_is_not_there_cannot_be_watched() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    done = observe("udploss", "--pid", str(gone.pid))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"there is no process {gone.pid}" in done.stderr
    told, over = threading.Event(), threading.Event()
    number: list[int] = []

    def thread() -> None:
        number.append(threading.get_native_id())
        told.set()
        over.wait(LIMIT)

    other = threading.Thread(target=thread)
    other.start()
    told.wait(LIMIT)
    try:
        done = observe("udploss", "--pid", str(number[0]))
    finally:
        over.set()
        other.join()
    assert f"a thread of the process {os.getpid()}" in done.stderr


@pytest.fixture
def named_as_a_broker(tmp_path: Path) -> Path:
    """A program that looks like `tempos broker` to whoever lists processes, and starts another that loses."""
    program = tmp_path / "tempos"
    acting_program = Path(__file__).parents[1] / "support" / "observed.py"
    program.write_text(
        f"#!{sys.executable}\nimport os, subprocess, sys\n"
        "print('here', flush=True)\nos.read(0, 1)\n"
        f"subprocess.run([sys.executable, '-S', {str(acting_program)!r},"
        """ '{"act": "udp_overflow", "count": 100}'])\n"""
    )
    program.chmod(0o755)
    return program


def test_the_broker_is_watched_with_what_it_starts_later(named_as_a_broker: Path) -> None:
    process = subprocess.Popen(
        [named_as_a_broker, "broker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "here\n"
        with acting("udp_overflow", count=100) as others, Observed("udploss", "--broker") as tool:
            (other,) = others.go()
            process.stdin.write("\n\n")
            process.stdin.flush()
            assert process.stdout.readline().startswith("ready ")
            done = json.loads(process.stdout.readline())
            found = {row["pid"] for row in rows(tool.stop(), "losses")}
            assert done["pid"] in found
            assert other["pid"] not in found
        process.stdin.close()
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_what_nobody_reads_in_time_is_counted() -> None:
    """Of a reader that stands still the buffer holds some; the others are told, and it ends with 1."""
    count = 150_000
    with Observed("opensnoop", "--pid", str(os.getpid())) as tool:
        os.kill(tool.pid, signal.SIGSTOP)
        for _ in range(count):
            os.close(os.open("/dev/null", os.O_RDONLY))
        os.kill(tool.pid, signal.SIGCONT)
        lines = tool.stop(code=1)
    told = sum(line.get("path") == "/dev/null" for line in lines)
    (lost,) = (lost for lost in lines[-1]["lost"].values() if lost)
    assert 0 < told < count
    assert told + lost >= count
    assert told + lost <= count + sum(line["type"] == "event" for line in lines) - told
