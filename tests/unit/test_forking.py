"""Brokers that the tests begin as forks are what they would be if they were executed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import forking
from support.ports import free_ports
from support.waiting import LIMIT

BROKER = (sys.executable, "-m", "tempos_broker", "-c")
CONFIG = """
[broker]
listen = ["127.0.0.1"]
data_port = {}
control_port = {}
api = "127.0.0.1:{}"
name = "forked-{}"
[state]
file = "off"
[fastpath]
mode = "off"
"""
Start = Callable[..., "subprocess.Popen[Any]"]


def test_what_cannot_serve_says_the_same_and_ends_the_same(tmp_path: Path) -> None:
    def ends(start: Start, *words: str) -> tuple[int, str, str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": tmp_path, "text": True}
        with start((*BROKER, *words), **pipes) as process:
            out, complaints = process.communicate(timeout=LIMIT)
        return process.returncode, out, complaints

    (tmp_path / "wrong.toml").write_text("[broker]\ndata_port = 0\n")
    for words, code in ((("nowhere.toml",), 2), (("wrong.toml",), 2), (("wrong.toml", "--wrong"), 2)):
        forked = ends(forking.start, *words)
        assert forked == ends(subprocess.Popen, *words)
        assert forked[0] == code


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_is_told_to_end_as_any_process(tmp_path: Path, how: signal.Signals) -> None:
    ports = free_ports(3)
    (tmp_path / "broker.toml").write_text(CONFIG.format(*ports, ports[0]))
    command = ("setpriv", "--pdeathsig", "TERM", *BROKER, str(tmp_path / "broker.toml"))
    with forking.start(command, stdout=subprocess.PIPE, text=True) as process:
        assert isinstance(process, forking._Forked)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")
        assert process.poll() is None
        assert Path(f"/proc/{process.pid}/stat").exists()
        process.send_signal(how)
        assert process.wait(LIMIT) == (-how if how is signal.SIGKILL else 0)
        assert process.stdout.read() == ""


def test_a_file_that_it_is_given_may_have_any_number() -> None:
    """Also that of the way by which whatever forks is asked."""
    process, _ = forking._ground()
    assert isinstance(process.args, tuple)
    number, text = int(process.args[2]), os.memfd_create("text")
    try:
        kept = os.dup(number)
    except OSError:
        kept = -1
    try:
        os.write(text, b"[broker]\ndata_port = 0\n")
        os.dup2(text, number)
        command = (*BROKER, f"/proc/self/fd/{number}")
        with forking.start(command, stderr=subprocess.PIPE, pass_fds=(number,), text=True) as broker:
            assert isinstance(broker, forking._Forked)
            assert "broker.data_port is 0" in broker.communicate(timeout=LIMIT)[1]
    finally:
        os.close(text)
        if kept >= 0:
            os.dup2(kept, number)
            os.close(kept)
        else:
            os.close(number)


def test_a_command_is_where_it_would_be_and_says_what_it_would_say(tmp_path: Path) -> None:
    """`subprocess.run` of a command, from a thread that is in a network of its own."""
    words = (sys.executable, "-u", "-m", "tempos", "sub", "-b", "127.0.0.1:9", "-t", "nothing")

    def elsewhere() -> list[object]:
        if not os.geteuid():
            assert ctypes.CDLL(None).unshare(0x40000000) == 0
        return [
            (done.returncode, done.stdout, done.stderr)
            for run in (forking.run, forking.executed)
            for done in [run(words, capture_output=True, text=True, cwd=tmp_path, timeout=LIMIT, check=False)]
        ]

    with ThreadPoolExecutor(1) as pool:
        forked, executed = pool.submit(elsewhere).result()
    assert forked == executed


def test_what_goes_by_another_path_than_this_process_is_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    with forking.start((*BROKER, "x"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert type(process) is subprocess.Popen
        process.communicate(timeout=LIMIT)


def test_what_is_something_else_is_executed() -> None:
    for command, more in (
        ((sys.executable, "-c", "print(1)"), {}),
        (("sh", "-c", "echo 1"), {}),
        ((*BROKER, "x"), {"env": {"PYTHONOPTIMIZE": "1"}}),
    ):
        with forking.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more) as process:
            assert type(process) is subprocess.Popen
            process.communicate(timeout=LIMIT)
