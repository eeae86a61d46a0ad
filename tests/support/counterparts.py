"""Servers of other systems on loopback, as the sources of signals: each can be stopped and started again."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.ports import free_ports
from support.waiting import LIMIT

#: What a Python package brings before what the system has.
_PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin"


class Server:
    """A server's process on a port of its own; says ``ready`` on standard error."""

    name = ""
    ready = ""

    def __init__(self, folder: Path) -> None:
        program = shutil.which(self.name, path=_PATH)
        if program is None:
            pytest.skip(f"{self.name} is not installed")
        self.program = program
        self.folder = folder
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[str] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        self._process = subprocess.Popen(self.command(), stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if self.ready in line:
                return
        pytest.fail(f"{self.name} did not start")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.communicate(timeout=LIMIT)
            self._process = None


class Mosquitto(Server):
    """MQTT 5; keeps sessions on disk when it is told to stop."""

    name, ready = "mosquitto", "running"

    def __init__(self, folder: Path, more: str = "") -> None:
        super().__init__(folder)
        self._more = more

    def command(self) -> list[str]:
        file = self.folder / "mosquitto.conf"
        # A server that root starts becomes another user, unless it is told to stay.
        user = pwd.getpwuid(os.getuid()).pw_name
        file.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {self.folder}/\nuser {user}\nlog_dest stderr\n{self._more}"
        )
        return [self.program, "-c", str(file)]


class NatsServer(Server):
    """Core NATS."""

    name, ready = "nats-server", "Server is ready"

    def command(self) -> list[str]:
        return [self.program, "-a", "127.0.0.1", "-p", str(self.port)]
