"""Functions as programs: each way they end, that nothing is left of them, what cannot be run."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import functions
from support.functions import MEASURED, SOURCES
from support.workers import WorkerProcess

from tempos_bench.nodes.patience import patience
from tempos_invoker.worker.spawn import SpawnFunction
from tempos_invoker.worker.unfit import Unfit
from tempos_invoker.workers import frames
from tempos_invoker.workers.frames import Call, Condition

HOSTILE = SOURCES / "hostile.sh"
WHO = {"topic": "plant/press", "workflow": "w", "step": "s"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_gone(pid: int) -> None:
    limit = time.monotonic() + patience(10)
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < limit, f"{pid} lives on"
        time.sleep(0.001)


def state(pid: int, waiting: int) -> int:
    """How many files a worker has open that has so many programs waiting, and nothing else to do."""
    limit, last, same = time.monotonic() + patience(10), 0, 0
    while same < 5:
        there, files = children(pid), sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        # Not in the middle of starting one, when it does not sleep but is suspended.
        sleeps = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
        same = same + 1 if sleeps and len(there) == waiting and files == last else 0
        last = files
        assert time.monotonic() < limit, there
    return last


@pytest.fixture(params=[0, 2], ids=["cold", "ahead"])
def worker(request: pytest.FixtureRequest) -> Iterator[WorkerProcess]:
    """With what no test may leave: children beside those that wait, and files that are open."""
    with WorkerProcess(
        mode="spawn", code=str(HOSTILE), timeout=0.3, ahead=request.param, output=4096
    ) as worker:
        assert worker.hello["ok"], worker.hello
        worker.ask(b"echo\n")
        before = state(worker.process.pid, request.param)
        yield worker
        worker.ask(b"echo\n")
        assert state(worker.process.pid, request.param) == before
    assert worker.code == 0


def test_every_way_a_program_ends(worker: WorkerProcess) -> None:
    for deed, condition, text in (
        (b"echo it", Condition.SUCCEEDED, b"it\n"),
        (b"exit 3", Condition.ERROR, b"exit code 3: leaves with 3"),
        (b"exit 65", Condition.REFUSED, b"leaves with 65"),
        (b"loop", Condition.TIMEOUT, b"killed at its deadline, with all that it had started"),
        (b"ignores", Condition.TIMEOUT, b"killed at its deadline, with all that it had started"),
        (b"large 0123456", Condition.TOO_LARGE, b"the output has more than the 4096 bytes that are allowed"),
        (b"shouts 0123456789", Condition.TIMEOUT, b"killed at its deadline, with all that it had started"),
        (b"crash", Condition.CRASH, b"ended by signal 11 (Segmentation fault)"),
        (b"closes", Condition.SUCCEEDED, b""),
    ):
        answer = worker.ask(deed + b"\n", publisher=2, sequence=5)
        assert (answer.condition, answer.output) == (condition, text), deed
    assert worker.ask(b"other\n").flags == frames.NOTHING
    # It never reads what it is given.
    assert worker.ask(b"echo it\n" + b"x" * (frames.LARGEST_BODY - 8)).output == b"it\n"


def test_nothing_of_a_program_outlives_its_call(worker: WorkerProcess) -> None:
    for deed, condition in (
        (b"leaves", Condition.SUCCEEDED),
        (b"escapes", Condition.SUCCEEDED),
        (b"waits", Condition.TIMEOUT),
        (b"bomb", Condition.TIMEOUT),
    ):
        begun = time.monotonic()
        answer = worker.ask(deed + b"\n")
        assert answer.condition == condition, answer
        assert time.monotonic() - begun < patience(10)
        if condition == Condition.SUCCEEDED:
            wait_gone(int(answer.output))


def test_a_program_is_told_of_its_event(tmp_path: Path) -> None:
    more = {"publisher": 7, "sequence": 9, "sent_ns": 11, "attempt": 2, "place": 3}
    place = Call(0, json.dumps(WHO).encode(), place=3, flags=frames.PLACE)
    with WorkerProcess(mode="spawn", code=str(HOSTILE), env={"SET": "so"}, cwd=str(tmp_path)) as worker:
        worker.send(place)
        assert worker.ask(b"where\n").output.decode() == f"{tmp_path}\n"
        told = {"ID": "00000007:00000009", "TOPIC": "plant/press", "WORKFLOW": "w", "STEP": "s"}
        told |= {"PUBLISHER": "7", "SEQUENCE": "9", "ATTEMPT": "2", "SENT_NS": "11"}
        for name, value in told.items():
            assert worker.ask(f"env TEMPOS_{name}\n".encode(), **more).output.decode() == value
        assert 0 < int(worker.ask(b"env TEMPOS_LEFT_NS\n").output) <= 10**9
        assert worker.ask(b"env SET\n").output == b"so"
        assert worker.ask(b"env PYTEST_CURRENT_TEST\n").flags == frames.NOTHING, "nothing else of ours"
    with WorkerProcess(mode="spawn", code=str(HOSTILE), ahead=1) as worker:
        worker.send(place)
        output = worker.ask(b"told\n", **more).output.decode()
        lines = dict(line.split("=", 1) for line in output.splitlines())
        assert (lines["TEMPOS_TOPIC"], lines["TEMPOS_ID"]) == ("plant/press", "00000007:00000009")


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_function_of_the_source_in_other_languages(ahead: int) -> None:
    body = json.dumps({"message": "xabcabc--abc", "pattern": "abc"}).encode()
    for interpreter, name in ((sys.executable, "count.py"), (shutil.which("node"), "count.mjs")):
        if interpreter is None:
            continue
        with WorkerProcess(
            mode="spawn", args=[interpreter, "{code}"], code=str(MEASURED / name), ahead=ahead, timeout=20.0
        ) as worker:
            assert worker.ask(body).output == struct.pack("<d", 0 + 1 + 4)
            assert worker.ask(b"no").output.startswith(b"exit code 1: ")


@needs_root
def test_a_program_runs_as_another_user_within_limits() -> None:
    with WorkerProcess(
        mode="spawn", args=["/bin/sh", "-c", HOSTILE.read_text()], user="nobody", memory=1 << 26
    ) as worker:
        assert worker.hello["ok"], worker.hello
        assert worker.ask(b"limits\n").output == b"65536\n0\nnobody\n"
        assert worker.ask(b"env HOME\n").output != os.environ.get("HOME", "").encode()


def test_a_worker_that_is_killed_takes_its_programs_along() -> None:
    with WorkerProcess(mode="spawn", args=["/bin/sleep", "600"], timeout=60.0) as worker:
        worker.send(Call(1, b""))
        limit = time.monotonic() + patience(10)
        while len(running := children(worker.process.pid)) < 1:
            assert time.monotonic() < limit
        worker.process.kill()
        for pid in running:
            wait_gone(pid)


def why(**more: object) -> str:
    with pytest.raises(Unfit) as told:
        SpawnFunction({"timeout": 1.0, **more})
    return str(told.value)


def test_what_cannot_be_run_is_told_in_words(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/shell -x\n")
    assert "needs its code, or the command line as args" in why()
    assert "the code /gone is not there" in why(code="/gone")
    assert f"{script} is not executable: chmod +x" in why(code=str(script))
    assert "the program absent is not there (looked in /bin)" in why(args=["absent"], env={"PATH": "/bin"})
    script.chmod(0o755)
    assert "script is to be run by /no/such/shell, which is not there" in why(code=str(script))
    script.write_text("text")
    assert "script is no program: it is neither ELF nor begins with #!" in why(code=str(script))
    built = functions.program(tmp_path, "command").read_bytes()
    script.write_bytes(built[:18] + bytes([183, 0]) + built[20:])
    assert "script is made for ARM 64" in why(code=str(script))
    script.write_bytes(built[:5000])
    assert "script is cut off: it has 5000 bytes of" in why(code=str(script))
    assert "the folder /gone cannot be worked in" in why(args=["sh"], cwd="/gone")
    assert "no user 'nobody-here'" in why(args=["sh"], user="nobody-here")
    assert "65 processes; at most 64" in why(args=["sh"], ahead=65)
    assert "grants are for mode wasm" in why(args=["sh"], grants=["read:/"])
    # What is found out when it is started is told, too.
    script.write_bytes(built)
    with WorkerProcess(mode="spawn", code=str(script)) as worker:
        assert worker.ask(b"echo").output == b"echo"
        script.unlink()
        answer = worker.ask(b"echo")
        assert answer.condition == Condition.ERROR
        assert answer.output.decode() == f"{script}: it cannot be executed: No such file or directory"


@needs_root
def test_its_user_has_no_more_processes_than_it_may() -> None:
    assert "the kernel bounds none of root's" in why(args=["sh"], processes=5)
    # Ten at once, all of which are there before the first one ends.
    text = "for each in 1 2 3 4 5 6 7 8 9 10; do sleep 0.2 & done; wait; echo all"
    with WorkerProcess(mode="spawn", args=["sh", "-c", text], user="nobody", timeout=20.0) as worker:
        assert worker.ask(b"").output == b"all\n"
    spec = {"mode": "spawn", "args": ["sh", "-c", text], "user": "nobody", "timeout": 20.0}
    with WorkerProcess(**spec, processes=5) as worker:
        answer = worker.ask(b"")
        assert answer.condition == Condition.ERROR
        # It could not be begun, where its user has so many already.
        told = answer.output.decode()
        assert "annot fork" in told or "temporarily unavailable" in told, told
