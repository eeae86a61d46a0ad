"""Functions in Python inside a worker: what they may give, how they fail, what is told at the start."""

from __future__ import annotations

import os
import pwd
import tempfile
import time
from pathlib import Path

import msgpack
import pytest
from support.workers import WorkerProcess

from tempos_invoker.workers import frames
from tempos_invoker.workers.frames import Call, Condition

CODE = """
import asyncio, json, os, sys, time
from tempos_invoker import Context, Refused

calls = 0

def kinds(body):
    return {b"bytes": b"\\0b", b"text": "\\u00e4", b"none": None, b"empty": b"", b"map": {"a": 1}}[body]

def told(body, context: Context):
    context.log.info("seen %s", body.decode())
    return [context.id, context.topic, context.workflow, context.step, context.attempt,
            context.publisher, context.sequence, context.sent_ns, context.deadline - time.monotonic()]

class Mute(Exception):
    def __str__(self):
        raise KeyError

def fail(body):
    if body == b"no":
        raise Refused("not this one")
    if body == b"large":
        return bytes(5000)
    if body == b"exit":
        sys.exit(7)
    if body == b"odd":
        return object()
    if body == b"half":
        raise ValueError("\\ud800")
    if body == b"mute":
        raise Mute
    if body == b"closed":
        os.close(2)
        raise ValueError("closed")
    if body == b"shut":
        os.close(1)
        print("to nobody")
    return json.loads(body)

async def slowly(body):
    await asyncio.sleep(float(body))
    return body

def counted(body):
    global calls
    calls += 1
    return str(calls)

def strange(one, two, three):
    return one

number = 5
"""


@pytest.fixture
def code(tmp_path: Path) -> str:
    file = tmp_path / "some.py"
    file.write_text(CODE)
    return str(file)


def test_what_a_function_gives_is_the_output(code: str) -> None:
    with WorkerProcess(code=code, entry="some:kinds", version="v7") as worker:
        assert worker.hello["ok"]
        assert worker.hello["version"] == "v7"
        assert worker.hello["pid"] == worker.process.pid
        assert worker.hello["scheduling"]["policy"] in ("other", "batch", "idle", "fifo")
        answers = {name: worker.ask(name) for name in (b"bytes", b"text", b"none", b"empty", b"map")}
    assert {answer.condition for answer in answers.values()} == {Condition.SUCCEEDED}
    assert answers[b"bytes"].output == b"\0b"
    assert answers[b"text"].output == "\u00e4".encode()
    assert msgpack.unpackb(answers[b"map"].output) == {"a": 1}
    assert [answers[name].flags for name in (b"none", b"empty")] == [frames.NOTHING, 0]
    assert worker.code == 0


def test_the_context_says_whose_event_it_is(code: str) -> None:
    place = b'{"topic": "t", "workflow": "w", "step": "s"}'
    with WorkerProcess(code=code, entry="some:told", timeout=5.0) as worker:
        before = time.monotonic_ns()
        worker.send(
            Call(0, place, flags=frames.PLACE, place=3),
            Call(8, b"x", publisher=0xAB, sequence=2, sent_ns=99, attempt=4, place=3),
        )
        (answer,) = worker.receive()
        *said, left = msgpack.unpackb(answer.output)
        assert said == ["000000ab:00000002", "t", "w", "s", 4, 0xAB, 2, 99]
        assert 4 < left <= 5
        assert before < answer.started_ns <= answer.ended_ns < time.monotonic_ns()
    assert "INFO [000000ab:00000002] seen x" in worker.output


def test_several_calls_of_a_message_are_answered_one_by_one(code: str) -> None:
    with WorkerProcess(code=code, entry="some:counted", warm="") as worker:
        worker.send(*(Call(ticket, b"") for ticket in range(3)))
        answers = [answer for _ in range(3) for answer in worker.receive()]
    # The warm-up was the first call.
    assert [(answer.ticket, answer.output) for answer in answers] == [(0, b"2"), (1, b"3"), (2, b"4")]


def test_each_way_to_fail_has_its_condition_and_the_worker_goes_on(code: str) -> None:
    with WorkerProcess(code=code, entry="some:fail", output=4096) as worker:
        assert worker.ask(b"no")[1:3] == (Condition.REFUSED, b"not this one")
        assert worker.ask(b"large")[1:3] == (
            Condition.TOO_LARGE, b"the output has 5000 bytes, 4096 are allowed"
        )  # fmt: skip
        error = worker.ask(b"{")
        assert error.condition == Condition.ERROR
        assert error.output.startswith(b"JSONDecodeError: ")
        assert worker.ask(b"odd").condition == Condition.ERROR
        # Whatever an error is made of, and wherever it cannot be written to.
        for body, said in (
            (b"half", b"ValueError: \\ud800"),
            (b"mute", b"Mute: it has no text, for that ends in KeyError"),
            (b"closed", b"ValueError: closed"),
            (b"shut", b"OSError: [Errno 9] Bad file descriptor"),
        ):
            assert worker.ask(body)[1:3] == (Condition.ERROR, said)
        assert worker.ask(b"[1]").condition == Condition.SUCCEEDED
        worker.send(Call(1, b"exit"))
        assert worker.sock.recv(100) == b""
    assert worker.code == 7
    assert "json.loads(body)" in worker.output
    assert "worker/python.py" not in worker.output.partition("odd")[0]


def test_an_async_function_is_cancelled_at_its_deadline(code: str) -> None:
    with WorkerProcess(code=code, entry="some:slowly", timeout=0.1) as worker:
        assert worker.ask(b"0").condition == Condition.SUCCEEDED
        late = worker.ask(b"60")
        assert late.condition == Condition.TIMEOUT
        assert late.ended_ns - late.started_ns >= 99_000_000
        assert worker.ask(b"0.001").output == b"0.001"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"entry": "some:nobody"}, "the module some has no nobody; it has "),
        ({"entry": "some:number"}, "some:number is int, not a function"),
        ({"entry": "some:strange"}, "some:strange(one, two, three) cannot be called: a function takes "),
        ({"entry": "nowhere:f", "code": ""}, "there is no module nowhere"),
        ({"entry": "some:fail", "warm": "e30x"}, "the warm-up ended with error: JSONDecodeError"),
        ({"entry": "some:kinds", "user": "nobody-of-that-name"}, "there is no user 'nobody-of-that-name'"),
        ({"entry": "some:kinds", "cwd": "/nowhere"}, "the folder /nowhere cannot be worked in"),
        ({"entry": "some:kinds", "code": "/nowhere/some.py"}, "FileNotFoundError"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_told_at_the_start(code: str, spec: dict[str, object], said: str) -> None:
    with WorkerProcess(**{"code": code, **spec}) as worker:
        assert not worker.hello["ok"]
        assert said in worker.hello["text"]
    assert worker.code == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_needs_to_read_the_code_and_nothing_of_the_installation() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        code = Path(folder) / "who.py"
        code.write_text("import os\ndef who(body):\n    return f'{os.getuid()} {os.getcwd()}'\n")
        user = pwd.getpwnam("nobody")
        with WorkerProcess(code=str(code), entry="who:who", user="nobody", cwd=folder) as worker:
            assert worker.hello["ok"], worker.hello
            assert worker.ask(b"").output.decode() == f"{user.pw_uid} {folder}"


def test_a_module_that_ends_the_process_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import sys; sys.exit('enough')")
    with WorkerProcess(code=str(tmp_path / "bad.py"), entry="bad:f") as worker:
        assert "the module bad cannot be imported: SystemExit: enough" in worker.hello["text"]
