"""A daemon that the Controller keeps: found again, started again, told why, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.waiting import LIMIT

from tempos_controller.parts import child as children
from tempos_controller.parts.child import HOPELESS, Child
from tempos_controller.parts.http import Another, Away, Own, Refused, Remote
from tempos_controller.parts.processes import find

SLEEPS = (sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(600)")
FAILS = (sys.executable, "-c", "import sys; sys.exit('no such thing')")


def child(folder: Path, argv: tuple[str, ...] = SLEEPS, *, anew: bool = False) -> Child:
    return Child("it", argv, folder, folder / "it.log", lambda: None, anew=anew)


async def until(condition: Callable[[], bool]) -> None:
    end = asyncio.get_running_loop().time() + LIMIT
    while not condition():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.01)


async def test_it_outlives_who_started_it_and_is_found_again(tmp_path: Path) -> None:
    first = child(tmp_path)
    first.start()
    await until(lambda: find(SLEEPS, tmp_path) is not None)
    pid = first.pid
    assert pid is not None
    assert os.getsid(pid) == pid
    await first.leave()
    # One that is somewhere else is not the one.
    assert find(SLEEPS, tmp_path.parent) is None
    second = child(tmp_path)
    second.start()
    await until(lambda: second.pid is not None)
    assert second.pid == pid
    await second.leave()
    # What goes by another file than it is to is started anew.
    third = child(tmp_path, anew=True)
    third.start()
    await until(lambda: third.pid is not None)
    assert third.pid != pid
    assert await third.stop(signal.SIGTERM, LIMIT)
    assert find(SLEEPS, tmp_path) is None


async def test_it_is_started_again_and_told_why(tmp_path: Path) -> None:
    # What it said before that has nothing to do with it.
    kept = child(tmp_path, (*SLEEPS[:2], f"print('a warning', flush=True); {SLEEPS[2]}"))
    kept.start()
    await until(lambda: "ready" in kept.log_file.read_text() if kept.log_file.exists() else False)
    pid = kept.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: kept.pid not in (None, pid))
    assert (kept.restarts, kept.reason) == (1, "ended by SIGKILL")
    await kept.stop(signal.SIGTERM, LIMIT)


async def test_its_last_words_are_the_reason(tmp_path: Path) -> None:
    kept = child(tmp_path, FAILS)
    kept.start()
    await until(lambda: kept.is_hopeless)
    assert kept.reason == "ended with exit code 1: no such thing"
    assert kept.restarts >= HOPELESS - 1
    assert kept.state == "starting again"
    await kept.stop(signal.SIGTERM, LIMIT)
    assert kept.state == "stopped"


async def test_one_that_hangs_is_killed_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = child(tmp_path)
    kept.start()
    await until(lambda: kept.pid is not None)
    pid = kept.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    kept.silent()
    # It has its time, and an answer in between gives it all of that again.
    monkeypatch.setattr(children, "HANGS", 0.0)
    kept.heard()
    kept.silent()
    assert kept.pid == pid
    kept.silent()
    await until(lambda: kept.pid not in (None, pid))
    assert kept.reason == "gave no answer for 0 s and was killed: ended by SIGKILL"
    assert kept.restarts == 1
    # What it did before does not count against the next one.
    pid = kept.pid
    kept.silent()
    assert kept.pid == pid
    await kept.stop(signal.SIGTERM, LIMIT)


def test_a_connection_that_is_reset_as_it_begins_is_somebody_who_is_away() -> None:
    """Whatever the libraries below make of it, on the loop of daemons: some connections hit the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reset() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        time.sleep(0.00005)
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        async def ask() -> set[bool]:
            silent = set()
            for _ in range(200):
                remote = Remote("it", server.getsockname(), lambda: "")
                with pytest.raises(Away) as away:
                    await remote.ask("GET", "/")
                silent.add(away.value.silent)
                await remote.close()
            return silent

        resetting = threading.Thread(target=reset)
        resetting.start()
        try:
            assert pytest.importorskip("uvloop").run(ask()) == {False}
        finally:
            server.shutdown(socket.SHUT_RDWR)
            resetting.join()


async def test_silence_is_not_the_same_as_nobody() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        address = deaf.getsockname()
        deaf.listen(1)
        remote = Remote("it", address, lambda: "")
        with pytest.raises(Away) as away:
            await remote.ask("GET", "/", wait=0.05)
        assert away.value.silent
        await remote.close()
    remote = Remote("it", address, lambda: "")
    with pytest.raises(Away) as away:
        await remote.ask("GET", "/", wait=0.05)
    assert not away.value.silent
    await remote.close()


@pytest.mark.parametrize("status", ["200 OK", "401 Unauthorized"])
async def test_another_ones_daemon_at_the_address_is_not_taken_for_the_own(status: str) -> None:
    """Two platforms on one machine: what is asked of one must not be done by the other's."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status}\r\nTempos-Daemon: broker\r\nTempos-Process: 17\r\nContent-Length: 2"
        writer.write(f"{head}\r\nConnection: close\r\n\r\n{{}}".encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = address = server.sockets[0].getsockname()
        for process in (None, 18):
            remote = Remote("broker", address, lambda: "", Own(lambda: process, "broker.api"))  # noqa: B023
            with pytest.raises(Another) as another:
                await remote.ask("GET", "/v1/health")
            assert another.value.why == (
                f"another broker answers at {host}:{port}, process 17, not the one that is started here: "
                "end that one, or set broker.api to another address"
            )
            await remote.close()
        for own in (Own(lambda: 17, "broker.api"), None):
            remote = Remote("broker", address, lambda: "", own)
            if status.startswith("2"):
                assert await remote.ask("GET", "/v1/health") == {}
            else:
                with pytest.raises(Refused):
                    await remote.ask("GET", "/v1/health")
            await remote.close()


async def test_one_of_an_earlier_controller_ends_with_the_next_that_has_not_come_to_it_yet(
    tmp_path: Path,
) -> None:
    first = child(tmp_path)
    first.start()
    await until(lambda: find(SLEEPS, tmp_path) is not None)
    await first.leave()
    second = child(tmp_path)
    # Told to stop before it had a turn.
    second.start()
    assert await second.stop(signal.SIGTERM, LIMIT)
    assert find(SLEEPS, tmp_path) is None
