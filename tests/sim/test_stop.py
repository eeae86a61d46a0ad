"""Brokers told to stop, or to reload, when it suits them least: they end in time, and never by a signal."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support.brokers import get
from support.ports import free_ports
from support.processes import descendants, still_alive
from support.proving import subscribe
from support.waiting import LIMIT, until

from tempos.wire import encode_event
from tempos_daemon.signals import STOP_WITHIN

#: What the machine may need beside; a stop that is cut off by the last resort ends with another code.
SLACK = 2.0
#: Events that a broker's socket has room for, also where the kernel grants it no more than usual.
ROOM = 5000 if os.geteuid() == 0 else 200


#: Enough to be checked by a process of its own, for about a second.
MANY = "[limits]\ntopics = 9000\n" + "".join(
    f'[[topic]]\nid = {id_}\nname = "many/{id_}"\n' for id_ in range(1000, 9000)
)


class Machine:
    """Where a broker is started, ready or not."""

    def __init__(self, folder: Path) -> None:
        self.data, self.control, self.api = free_ports(3)
        self.file, self.log, self.state = folder / "b.toml", folder / "log", folder / "state.db"
        self.configure()

    def configure(self, more: str = "", topic: str = "t") -> None:
        self.file.write_text(
            f'[broker]\nlisten = ["127.0.0.1"]\ndata_port = {self.data}\ncontrol_port = {self.control}\n'
            f'api = "127.0.0.1:{self.api}"\n[fastpath]\nmode = "off"\n[state]\nfile = "{self.state}"\n'
            f'{more}\n[[topic]]\nid = 1\nname = "{topic}"\n'
        )

    @contextmanager
    def broker(self) -> Iterator[subprocess.Popen[str]]:
        command = (sys.executable, "-m", "tempos", "broker", "-c", str(self.file), "--log-level", "info")
        with self.log.open("w") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        with process:
            try:
                yield process
            finally:
                process.kill()

    def ready(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready"), self.log.read_text()

    def stopped(self, process: subprocess.Popen[str], *more: signal.Signals) -> float:
        """Tell it to stop; how long it took."""
        began = time.monotonic()
        for number in (signal.SIGTERM, *more):
            process.send_signal(number)
        code = process.wait(LIMIT)
        took = time.monotonic() - began
        # Whoever is told twice has a second; a starved machine ends it there.
        hurried = "as by a kill" in self.log.read_text() or "Timeout" in self.log.read_text()
        assert code == 0 or (more and hurried), self.log.read_text()
        assert took < STOP_WITHIN + SLACK, self.log.read_text()
        return took

    def join(self, group: str, data: socket.socket, topic: str = "t") -> None:
        port = data.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(LIMIT)
            sock.connect(("127.0.0.1", self.control))
            data.settimeout(LIMIT)
            assert subscribe(sock, data, 1, 42, topic=topic, group=group, port=port).error is None


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def exists(path: Path) -> None:
    end = time.monotonic() + LIMIT
    while not path.exists():
        assert time.monotonic() < end


def test_a_reload_that_comes_before_all_is_ready_is_made_then(machine: Machine) -> None:
    with machine.broker() as process:
        # It is read by now, so what is changed here is news.
        exists(machine.state)
        machine.configure(topic="u")
        process.send_signal(signal.SIGHUP)
        machine.ready(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "reload: topic t (1) removed\n"
        machine.stopped(process)


def test_reloads_and_more_signals_while_it_stops_change_nothing(machine: Machine) -> None:
    with machine.broker() as process:
        machine.ready(process)
        machine.stopped(process, signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def test_one_that_nobody_reads_serves_all_the_same(machine: Machine) -> None:
    with machine.broker() as process:
        assert process.stdout is not None
        process.stdout.close()
        until(lambda: "takes nothing" in machine.log.read_text(), machine.log.read_text)
        assert get(machine.api, "/v1/ready") == {"ready": True}
        machine.configure(topic="u")
        process.send_signal(signal.SIGHUP)
        until(lambda: machine.log.read_text().count("takes nothing") == 2, machine.log.read_text)
        assert [each["name"] for each in get(machine.api, "/v1/topics")] == ["u"]
        machine.stopped(process)


def test_one_that_is_not_ready_yet_stops_too(machine: Machine) -> None:
    machine.configure("[quality]\nworker_sq = true\n")
    with machine.broker() as process:
        exists(machine.state)
        machine.stopped(process)
        assert process.stdout is not None
        assert process.stdout.read() == "", "no word of being ready"


def test_a_drain_with_patience_is_answered_and_nobody_waits_for_it(machine: Machine) -> None:
    with machine.broker() as process, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
        machine.ready(process)
        member.bind(("127.0.0.1", 0))
        member.settimeout(LIMIT)
        machine.join("w", member)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
            publisher.sendto(encode_event(1, 1, 1, 0, b"x"), ("127.0.0.1", machine.data))
        # It has come, and nobody will say so.
        member.recv(2000)
        answers: list[dict[str, Any]] = []

        def drain() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", machine.api, timeout=LIMIT)
            path = f"/v1/topics/t/groups/w/members/127.0.0.1:{member.getsockname()[1]}/drain"
            connection.request("POST", path, '{"patience_s": 60}', {"Content-Type": "application/json"})
            answers.append(json.load(connection.getresponse()))
            connection.close()

        thread = threading.Thread(target=drain)
        thread.start()
        end = time.monotonic() + LIMIT
        while "epoch 3" not in machine.log.read_text():
            assert time.monotonic() < end, machine.log.read_text()
        assert machine.stopped(process) < STOP_WITHIN
        thread.join(LIMIT)
        (answer,) = answers
        assert 20 - LIMIT < answer["kept_out"]["seconds"] <= 20, "two leases, and what has passed of them"
        assert (answer["ticketed"], answer["delivered"], answer["confirmed"]) == (1, 0, False)


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        b"GET /v1/sta",
        b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
        b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 500,
    ],
    ids=["silent", "half", "idle", "no body", "pipeline"],
)
def test_http_clients_that_read_nothing_hold_nobody_up(machine: Machine, asked: bytes) -> None:
    with machine.broker() as process, socket.socket() as client:
        machine.ready(process)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", machine.api))
        client.setblocking(False)
        with suppress(BlockingIOError):
            client.send(asked)
        assert machine.stopped(process) < STOP_WITHIN


@pytest.mark.parametrize(
    ("worker", "how"), [(False, signal.SIGTERM), (True, signal.SIGUSR2)], ids=["alone", "SQ worker"]
)
def test_what_lies_in_the_sockets_is_served_before_it_stops(
    machine: Machine, worker: bool, how: signal.Signals
) -> None:
    """Whoever reads which socket, what the kernel has taken is not lost: the next life's ledger shows it.

    Whoever is told to stop: a service manager may tell every process of a unit.
    """
    machine.configure(
        f"[quality]\nworker_sq = {str(worker).lower()}\npriority_sq = 0\n"
        '[[topic]]\nid = 2\nname = "strict"\nclass = "SQ"\n'
    )
    with machine.broker() as process, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
        machine.ready(process)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
            member.bind(("127.0.0.1", 0))
            machine.join("g", member)
            machine.join("g", member, topic="strict")
        stopped = {process.pid, *descendants(process.pid)}
        assert len(stopped) == 1 + worker
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        # More than a turn takes, where the kernel gives the room for it.
        room = ROOM
        for number in range(room):
            for topic in (1, 2):
                publisher.sendto(encode_event(topic, 1, number, 0, b"x"), ("127.0.0.1", machine.data))
        for pid in stopped:
            os.kill(pid, how)
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        assert process.wait(LIMIT) == 0, machine.log.read_text()
    with machine.broker() as process:
        machine.ready(process)
        for name in ("t", "strict"):
            account = get(machine.api, f"/v1/ledger/{name}")
            assert (account["received"], account["slow"]) == (room, room), account
        machine.stopped(process)


def test_what_every_process_of_a_unit_is_sent_ends_no_worker(machine: Machine) -> None:
    """It would take with it what it has read and not sent yet."""
    machine.configure(
        '[quality]\nworker_sq = true\npriority_sq = 0\n[[topic]]\nid = 2\nname = "strict"\nclass = "SQ"\n'
    )
    with machine.broker() as process, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
        machine.ready(process)
        member.bind(("127.0.0.1", 0))
        machine.join("g", member, topic="strict")
        (worker,) = descendants(process.pid)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
                os.kill(worker, number)
                publisher.sendto(encode_event(2, 1, number, 0, b"x"), ("127.0.0.1", machine.data))
                member.recv(2000)
                assert still_alive({worker}, 0), number
        machine.stopped(process)


def test_a_worker_that_answers_nothing_holds_nobody_up(machine: Machine) -> None:
    machine.configure("[quality]\nworker_sq = true\n")
    with machine.broker() as process:
        machine.ready(process)
        (worker,) = descendants(process.pid)
        os.kill(worker, signal.SIGSTOP)
        assert machine.stopped(process) < STOP_WITHIN
    assert not Path(f"/proc/{worker}").exists()


def test_a_stop_waits_for_no_large_configuration_and_leaves_no_process_that_reads_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with machine.broker() as process:
        machine.ready(process)
        machine.configure(MANY)
        process.send_signal(signal.SIGHUP)
        until(lambda: bool(descendants(process.pid)))
        readers = descendants(process.pid)
        machine.stopped(process)
        assert not still_alive(readers, 0.5)
        assert "Traceback" not in machine.log.read_text()
