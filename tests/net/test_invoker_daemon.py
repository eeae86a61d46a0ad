"""The invoker as a process: deployments over the API and in a file, restarts, its API and commands."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import brokers, functions
from support.functions import MEASURED
from support.invokers import (
    CODE,
    LIMIT,
    Broker,
    Daemon,
    function,
    serving_broker,
    serving_invoker,
    step,
)

from tempos.blocking import Publisher
from tempos.cli import main


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with serving_broker(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with serving_invoker(tmp_path) as started:
        yield started


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def tempos(
    daemon: Daemon, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """What a command says, of this invoker, with ``given`` on its standard input."""

    def run(*words: str, given: bytes = b"") -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        code = main([*words, "--api", f"http://127.0.0.1:{daemon.port}"])
        sys.stdout.flush()
        said = capfdbinary.readouterr()
        return code, (said.out + said.err).decode()

    return run


def lives(pid: int) -> bool:
    """Whether a process does anything; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_deployment_is_put_whole_or_not_at_all_and_outlives_the_process(
    broker: Broker, daemon: Daemon
) -> None:
    assert daemon.ask("GET", "/v1/deployment")[0] == 404
    assert daemon.ask("GET", "/v1/ready") == (503, {"ready": False})
    code = daemon.upload(CODE)
    first = {"revision": "r1", "broker": broker.table, "function": [function(code=code)], "step": [step()]}
    assert daemon.ask("PUT", "/v1/deployment", first) == (200, {"revision": "r1"})
    assert daemon.ask("GET", "/v1/ready") == (200, {"ready": True})
    pid = daemon.status()["functions"][0]["workers"][0]["pid"]

    # Faults of the document.
    status, answer = daemon.ask("PUT", "/v1/deployment", {"function": [{"name": "f"}], "step": [{}]})
    assert status == 422
    assert len(answer["problems"]) == 6
    # Faults that only a trial can tell, all at once.
    wrong = {
        **first,
        "revision": "r2",
        "function": [
            function(code=code),
            function("nobody", code),
            function("say", {**code, "sha256": "0" * 64}),
            function("twice", code, warm="x", entry="code:work"),
        ],
    }
    wrong["step"] = [step(), step("t", topic="nowhere"), step("u", result="gone")]
    status, answer = daemon.ask("PUT", "/v1/deployment", wrong)
    assert status == 409
    told = answer["problems"]
    assert any("function 'nobody': the module code has no nobody; it has" in each for each in told)
    assert any("function 'twice': the warm-up ended with error: JSONDecodeError" in each for each in told)
    assert any("step w/u: result: topic 'gone': no topic is named 'gone'" in each for each in told), told
    assert f"function 'say': code: {'0' * 64} is not here; put it to /v1/code/{'0' * 64} before" in told
    wrong["function"] = [function(code=code)]
    wrong["step"].pop()
    status, answer = daemon.ask("PUT", "/v1/deployment", wrong)
    assert status == 409
    assert "step w/t: topic 'nowhere'" in answer["detail"]
    # Nothing has changed, and nothing is left of it.
    assert daemon.ask("GET", "/v1/deployment")[1]["revision"] == "r1"
    told = daemon.until(
        lambda now: len(now["functions"]) == len(now["steps"]) == len(now["functions"][0]["workers"]) == 1,
        "what was tried is gone",
    )
    assert told["functions"][0]["workers"][0]["pid"] == pid
    assert daemon.send("POST", "/v1/functions/work/invoke", b"{}")[0] == 200

    daemon.end(signal.SIGKILL)
    assert daemon.start().startswith("ready: invoker default; revision 'r1'")
    daemon.until(lambda now: now["ready"], "it is in force again")
    assert not lives(pid)
    assert daemon.send("POST", "/v1/functions/work/invoke", b"{}")[0] == 200


def test_a_file_is_the_deployment_and_is_read_again(broker: Broker, tmp_path: Path) -> None:
    def text(version: int, more: str = "", entry: str = "work") -> str:
        (tmp_path / "code.py").write_text(CODE.replace("VERSION = 1", f"VERSION = {version}"))
        return f"""
            [broker]
            control_port = {broker.control}
            data_port = {broker.data}
            [[function]]
            name = "work"
            mode = "python"
            code = "code.py"
            entry = "code:{entry}"
            [[step]]
            workflow = "w"
            name = "s"
            function = "work"
            class = "BQ"
            topic = "in"
            {more}
        """

    daemon = Daemon(tmp_path, text(1, "nonsense = 1"))
    try:
        assert daemon.start() == ""
        assert daemon.end() == 2
        assert "step[0].nonsense is an unknown key" in daemon.log.read_text()
        daemon.write(text(1, entry="nobody"))
        assert daemon.start() == ""
        assert daemon.end() == 2
        assert "function 'work': the module code has no nobody" in daemon.log.read_text()

        daemon.write(text(1))
        assert daemon.start().startswith("ready")
        assert daemon.ask("PUT", "/v1/deployment", {})[0] == 409

        def version() -> int:
            answer = json.loads(daemon.send("POST", "/v1/functions/work/invoke", b"{}")[1])
            return int(answer["version"])

        assert version() == 1
        # The file of the code is another one by now, and what runs is not.
        os.kill(daemon.status()["functions"][0]["workers"][0]["pid"], signal.SIGKILL)
        daemon.until(lambda now: now["functions"][0]["restarts"] == 1 and now["ready"], "it is replaced")
        daemon.write(text(2, "nonsense = 1"))
        assert version() == 1
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda now: "not reloaded: " in daemon.log.read_text(), "it is refused")
        daemon.write(text(2))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda now: version() == 2, "the new version is in force")
    finally:
        daemon.end()


def test_without_a_broker_it_waits_for_one(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    folder.mkdir()
    later = Broker(folder)
    (tmp_path / "code.py").write_text(CODE)
    text = f"""
        [broker]
        control_port = {later.control}
        data_port = {later.data}
        [[function]]
        name = "work"
        mode = "python"
        code = "code.py"
        entry = "code:work"
        [[step]]
        workflow = "w"
        name = "s"
        function = "work"
        class = "BQ"
        topic = "in"
    """
    with serving_invoker(tmp_path, text) as daemon:
        told = daemon.status()["steps"][0]["source"]
        assert (told["joined"], daemon.ask("GET", "/v1/ready")[0]) == (False, 503)
        with brokers.serving(later.file, later.log):
            daemon.until(lambda now: now["ready"], "it has joined")


def test_every_mode_gives_the_same_and_a_crash_costs_one_event(
    broker: Broker, daemon: Daemon, tmp_path: Path
) -> None:
    library = functions.library(tmp_path, "count")
    hostile = functions.library(tmp_path, "hostile")
    module = functions.module(tmp_path, "count")
    python = MEASURED / "count.py"

    def put(path: Path) -> dict[str, str]:
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        assert daemon.send("PUT", f"/v1/code/{sha256}", content)[0] == 200
        return {"sha256": sha256, "name": path.name}

    made = [
        {"name": "python", "mode": "python", "code": put(python), "entry": "count:count"},
        {"name": "dlf", "mode": "dlf", "code": put(library)},
        {"name": "wasm", "mode": "wasm", "code": put(module), "entry": "tempos_call"},
        {"name": "spawn", "mode": "spawn", "code": put(python), "args": [sys.executable, "{code}"],
         "timeout": 10.0},
        {"name": "hostile", "mode": "dlf", "code": put(hostile)},
    ]  # fmt: skip
    document = {"broker": broker.table, "function": made}
    status, answer = daemon.ask("PUT", "/v1/deployment", document)
    assert status == 200, answer
    event = json.dumps({"message": "ababab abab", "pattern": "ab"}).encode()
    given = {
        name: daemon.send("POST", f"/v1/functions/{name}/invoke", event)
        for name in ("python", "dlf", "wasm", "spawn")
    }
    assert {status for status, _ in given.values()} == {200}, given
    assert len({output for _, output in given.values()}) == 1, given
    status, answer = daemon.send("POST", "/v1/functions/hostile/invoke", b"crash")
    assert (status, json.loads(answer)["detail"]) == (502, "crash: its worker was killed by SIGSEGV")
    assert daemon.send("POST", "/v1/functions/hostile/invoke", b"x")[0] == 200
    wrong = {**document, "function": [{"name": "dlf", "mode": "dlf", "code": put(python)}]}
    status, answer = daemon.ask("PUT", "/v1/deployment", wrong)
    assert status == 409
    assert "function 'dlf': " in answer["detail"]


def test_workers_of_strict_steps_say_what_scheduling_they_got(broker: Broker, daemon: Daemon) -> None:
    document = {
        "broker": broker.table,
        "function": [function(code=daemon.upload(CODE))],
        "step": [step(**{"class": "SQ", "topic": "urgent"}), step("slow")],
    }
    assert daemon.ask("PUT", "/v1/deployment", document)[0] == 200
    told = {each["class"]: each["workers"][0] for each in daemon.status()["functions"]}
    assert told["BQ"]["scheduling"]["policy"] == "other"
    strict = told["SQ"]["scheduling"]
    # Where it may not be had, that is told.
    assert (strict["policy"], strict["priority"]) == ("fifo", 50) or "SCHED_FIFO 50 " in strict["reason"]
    assert len(strict["cpus"]) == 1
    if strict["policy"] == "fifo":
        assert os.sched_getscheduler(told["SQ"]["pid"]) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
        assert strict["budget"] == 0.8


def test_what_the_api_refuses_and_what_it_counts(broker: Broker, tmp_path: Path) -> None:
    token = "0123456789abcdef"
    (tmp_path / "token").write_text(token)
    settings = f'api_token_file = "{tmp_path / "token"}"'
    with serving_invoker(tmp_path, settings=settings) as daemon:
        assert daemon.send("GET", "/v1/status")[0] == 401

        def ask(method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=LIMIT)
            connection.request(method, path, body, {"Authorization": f"Bearer {token}", **headers})
            response = connection.getresponse()
            content = response.read()
            connection.close()
            return response.status, content

        sha = hashlib.sha256(b"x" * 100_000).hexdigest()
        assert ask("PUT", f"/v1/code/{sha}", b"y" * 100_000)[0] == 422
        assert not list((daemon.state / "parts").iterdir())
        assert not list((daemon.state / "code").iterdir())
        assert ask("PUT", f"/v1/code/{sha}", b"x" * 100_000)[0] == 200
        assert ask("PUT", "/v1/code/nonsense", b"x")[0] == 422
        assert ask("PUT", f"/v1/code/{sha}", b"", **{"Content-Length": str(65 << 20)})[0] == 413
        assert ask("PUT", "/v1/deployment", b"{")[0] == 400
        assert ask("POST", "/v1/functions/nobody/invoke", b"")[0] == 404
        assert ask("GET", "/v1/logs/nobody")[0] == 404
        text = ask("GET", "/metrics")[1].decode()
        assert 'tempos_invoker_api_refused_total{reason="no token"} 1.0' in text
        assert "tempos_invoker_ready 0.0" in text
        # Nobody else has this folder.
        second = Daemon(tmp_path / "..", settings=f'state = "{daemon.state}"'.replace("state", "state", 1))
        second.file.write_text(daemon.file.read_text().replace(str(daemon.port), str(second.port)))
        assert second.start() == ""
        assert second.end() == 1
        assert "another invoker has the state folder" in second.log.read_text()


def test_the_commands_show_call_and_redrive(broker: Broker, daemon: Daemon, tempos: Command) -> None:
    code, said = tempos("function", "ls")
    assert (code, said) == (0, "no functions: no deployment is in force\n")
    code_file = daemon.upload(CODE)
    document = {
        "broker": broker.table,
        "function": [function(code=code_file), function("say", code_file)],
        "step": [step()],
    }
    assert daemon.ask("PUT", "/v1/deployment", document)[0] == 200
    code, said = tempos("function", "invoke", "say", "-m", "hello")
    assert (code, said) == (0, "hello\n")
    assert tempos("function", "invoke", "say", given=b"a\nb") == (0, "a\nb")
    code, said = tempos("function", "logs", "say")
    assert code == 0
    assert said.splitlines()[0].endswith("said hello")
    code, said = tempos("function", "invoke", "work", "-m", '{"do": "raise"}')
    assert code == 1
    assert "error: ValueError: as told" in said
    assert tempos("function", "invoke", "nobody", "-m", "")[0] == 1
    code, said = tempos("function", "ls")
    assert [line.split()[:3] for line in said.splitlines()[1:3]] == [
        ["work", "BQ", "python"], ["say", "BQ", "python"],
    ]  # fmt: skip

    with Publisher("127.0.0.1", data_port=broker.data, control_port=broker.control) as publisher:
        publisher.publish("in", b'{"do": "refuse"}')
    daemon.until(lambda now: now["errors"]["kept"] == 1, "it has failed")
    code, said = tempos("errors", "list", "--condition", "refused")
    assert code == 0
    assert "w/s" in said
    assert "not this" in said
    code, said = tempos("errors", "show", "1")
    assert 'body:      {"do": "refuse"}' in said
    assert tempos("errors", "redrive", "1") == (0, "1 accepted anew\n")
    daemon.until(lambda now: now["errors"]["kept"] == 1 and now["total"]["accepted"] == 5, "and again")
    assert tempos("errors", "redrive", "1") == (
        1, "0 accepted anew; kept no more, or not of those asked for: 1\n"
    )  # fmt: skip
    assert tempos("errors", "redrive")[0] == 2
    code, said = tempos("function", "header")
    assert code == 2  # It asks nobody.


def test_a_document_that_the_api_gave_can_be_put(broker: Broker, daemon: Daemon) -> None:
    document: dict[str, Any] = {
        "broker": broker.table,
        "function": [function(code=daemon.upload(CODE), env={"A": "b"}, warm="{}")],
        "step": [step(retries=2)],
    }
    assert daemon.ask("PUT", "/v1/deployment", document)[0] == 200
    given = daemon.ask("GET", "/v1/deployment")[1]
    given["broker"].pop("client")
    before = daemon.status()["functions"][0]["workers"]
    assert daemon.ask("PUT", "/v1/deployment", given)[0] == 200
    # What has not changed is not touched.
    assert daemon.status()["functions"][0]["workers"] == before


def test_what_a_function_leaves_behind_ends_with_the_invoker(tmp_path: Path) -> None:
    code = """
import os, time

def leave(body):
    # As a daemon does: a child of a child, in a session of its own.
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(float(body))
        os._exit(0)
    os.wait()
    return b""
"""
    with serving_broker(tmp_path) as broker, serving_invoker(tmp_path) as daemon:
        document = {"broker": broker.table, "function": [function("leave", code=daemon.upload(code))]}
        assert daemon.ask("PUT", "/v1/deployment", document)[0] == 200
        for seconds in (b"600", b"600", b"0"):
            assert daemon.send("POST", "/v1/functions/leave/invoke", seconds)[0] == 200
        # That of no time is reaped, and no zombie.
        daemon.until(lambda now: now["strays"] == 2, "both are seen")
        assert daemon.process is not None
        own = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
        strays = [
            each for each in own if b"tempos_invoker.worker" in Path(f"/proc/{each}/cmdline").read_bytes()
        ]
        assert len(strays) == 3
        assert daemon.end() == 0
        assert not [pid for pid in strays if Path(f"/proc/{pid}").exists()]
