"""Signals to a daemon, really sent to this process, and what the service manager is told."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from support.waiting import LIMIT

from tempos_daemon.last_resort import LastResort
from tempos_daemon.notify import READY, notify, reloading
from tempos_daemon.signals import HURRY, START_MORE, STOP_WITHIN, Signals

EVERY = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)


class Armed(LastResort):
    """Notes for how long it was armed, and ends nothing."""

    def __init__(self) -> None:
        super().__init__(1)
        self.seconds: list[float] = []

    def arm(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def last() -> Armed:
    return Armed()


@pytest.fixture
def signals(last: Armed) -> Iterator[Signals]:
    former = {number: signal.getsignal(number) for number in EVERY}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield Signals(last)
    for number, handler in former.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


async def until(condition: Callable[[], bool]) -> None:
    async def hold() -> None:
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(hold(), LIMIT)


async def test_a_reload_that_comes_too_early_is_made_when_all_is_ready(signals: Signals) -> None:
    signals.hold()
    send(signal.SIGHUP)
    signals.attach()
    reloads: list[str] = []
    signals.reload_with(lambda: reloads.append("reload"))
    assert reloads == ["reload"]
    send(signal.SIGHUP)
    await until(lambda: len(reloads) == 2)


async def test_the_first_signal_stops_the_second_hurries_and_a_reload_means_nothing_then(
    signals: Signals, last: Armed
) -> None:
    signals.attach()
    reloads: list[str] = []
    signals.reload_with(lambda: reloads.append("reload"))
    send(signal.SIGTERM)
    await asyncio.wait_for(signals.wait(), LIMIT)
    assert (signals.stopping, signals.stopped_by, last.seconds) == (True, signal.SIGTERM, [STOP_WITHIN])
    send(signal.SIGHUP)
    send(signal.SIGINT)
    await until(lambda: len(last.seconds) == 2)
    assert (last.seconds, reloads) == ([STOP_WITHIN, HURRY], [])
    loop = asyncio.get_running_loop()
    signals.ignore(loop)
    for number in EVERY:
        send(number)
    # They wait behind the mask; without it they are ignored: this process is still there.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EVERY)
    assert signal.sigpending() == set()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_time_to_stop_begins_with_the_signal_whatever_the_loop_is_at(
    signals: Signals, last: Armed, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def busy() -> None:
        signals.attach()
        send(signal.SIGTERM)
        end = time.monotonic() + LIMIT
        while not last.seconds and time.monotonic() < end:
            pass
        assert (last.seconds, signals.stopping) == ([STOP_WITHIN], False)
        await asyncio.wait_for(signals.wait(), LIMIT)
        signals.ignore(asyncio.get_running_loop())

    loop = new_loop()
    try:
        loop.run_until_complete(busy())
    finally:
        loop.close()


async def test_a_start_is_finished_or_given_up_when_it_is_time_to_stop(
    signals: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempos_daemon.signals.START_MORE", START_MORE / 10)
    signals.attach()
    go_on, undone = asyncio.Event(), list[str]()

    async def start(name: str) -> str:
        try:
            await go_on.wait()
        finally:
            undone.append(name)
        return name

    async def fail() -> str:
        raise OSError("no port")

    go_on.set()
    assert await signals.unless_stopped(start("in time")) == "in time"
    with pytest.raises(OSError, match="no port"):
        await signals.unless_stopped(fail())
    go_on.clear()
    never = asyncio.create_task(signals.unless_stopped(start("never")))
    soon = asyncio.create_task(signals.unless_stopped(start("soon")))
    await asyncio.sleep(0)
    send(signal.SIGTERM)
    await signals.wait()
    assert await asyncio.wait_for(never, LIMIT) is None
    assert await asyncio.wait_for(soon, LIMIT) is None
    assert sorted(undone) == ["in time", "never", "soon"]


async def test_the_step_that_is_under_way_can_be_told(signals: Signals, last: Armed) -> None:
    seen: list[str] = []

    async def work() -> None:
        seen.append(last.step)

    await signals.step("closing the broker", work)
    assert seen == ["closing the broker"]


def test_the_service_manager_is_told_where_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify(READY)
    for name, bound in ((str(tmp_path / "n"), str(tmp_path / "n")), ("@tempos-n", "\0tempos-n")):
        monkeypatch.setenv("NOTIFY_SOCKET", name + ("" if name[0] == "/" else str(os.getpid())))
        notify(READY)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(bound + ("" if name[0] == "/" else str(os.getpid())))
            sock.settimeout(LIMIT)
            notify(READY)
            assert sock.recv(100) == b"READY=1"
            notify(reloading())
            assert sock.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")


@pytest.mark.parametrize(("command", "said"), [("broker", "SIG_IGN\n"), ("status", "SIG_DFL\ntaken apart\n")])
def test_a_daemon_hears_no_reload_before_it_is_imported_and_ends_without_being_taken_apart(
    command: str, said: str
) -> None:
    code = """
import atexit, signal, sys, types
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from tempos_daemon.entry import main
assert "tempos" not in sys.modules
sys.modules["tempos"] = types.ModuleType("tempos")
sys.modules["tempos.cli"] = late = types.ModuleType("tempos.cli")
late.main = lambda: print(signal.getsignal(signal.SIGHUP).name) or 3
atexit.register(print, "taken apart")
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, said), done.stderr


#: The command as it is started, held up where it imports what takes long.
_IMPORTING = """
import signal, sys
class Slow:
    def find_spec(self, name, path, target=None):
        if name == "tempos.cli":
            print("importing", flush=True)
            signal.pause()
sys.meta_path.insert(0, Slow())
from tempos_daemon.entry import main
main()
"""


@pytest.mark.parametrize("command", ["broker", "status"])
def test_an_interrupt_while_a_command_is_imported_ends_it_without_a_word(command: str) -> None:
    with subprocess.Popen(
        (sys.executable, "-c", _IMPORTING, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=LIMIT) == (b"", b"")
    assert process.returncode == -signal.SIGINT
