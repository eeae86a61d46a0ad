"""etcd on loopback: one node or several, of which each can be ended, stopped and started again."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import ssl
import subprocess
from pathlib import Path

import pytest

from support.ports import free_ports
from support.waiting import LIMIT, until


class Cluster:
    """``nodes`` of etcd with their data below ``folder``; started by :meth:`start`.

    ``certified``: certificate and key that clients are served with, by TLS then.
    """

    def __init__(
        self, folder: Path, nodes: int = 1, *options: str, certified: tuple[Path, Path] | None = None
    ) -> None:
        program = shutil.which("etcd")
        if program is None:
            pytest.skip("etcd is not installed (apt-get install etcd-server)")
        ports = free_ports(2 * nodes)
        if certified is not None:
            options = (*options, "--cert-file", str(certified[0]), "--key-file", str(certified[1]))
        self._folder, self._options, self._program = folder, options, program
        self._scheme = "http" if certified is None else "https"
        self._clients = [f"{self._scheme}://127.0.0.1:{port}" for port in ports[:nodes]]
        self._peers = [f"http://127.0.0.1:{port}" for port in ports[nodes:]]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._logs: list[Path] = [folder / f"etcd{number}.log" for number in range(nodes)]

    @property
    def endpoints(self) -> list[str]:
        """The URLs of all nodes."""
        return list(self._clients)

    def start(self, *nodes: int) -> None:
        """Start these, or all, and wait until each of them serves."""
        numbers = nodes or tuple(range(len(self._clients)))
        for number in numbers:
            self._processes[number] = self._begin(number)
        for number in numbers:
            until(lambda number=number: self._serves(number), lambda: self._logs[0].read_text()[-2000:])  # type: ignore[misc]

    def _begin(self, number: int) -> subprocess.Popen[bytes]:
        names = [f"n{each}={peer}" for each, peer in enumerate(self._peers)]
        with self._logs[number].open("ab") as log:
            return subprocess.Popen(
                [
                    self._program, "--name", f"n{number}", "--data-dir", str(self._folder / f"etcd{number}"),
                    "--listen-client-urls", self._clients[number],
                    "--advertise-client-urls", self._clients[number],
                    "--listen-peer-urls", self._peers[number],
                    "--initial-advertise-peer-urls", self._peers[number],
                    "--initial-cluster", ",".join(names), "--unsafe-no-fsync", *self._options,
                ],
                stdout=log, stderr=log,
            )  # fmt: skip

    def _serves(self, number: int) -> bool:
        host = self._clients[number].removeprefix(f"{self._scheme}://")
        connection = (
            http.client.HTTPConnection(host, timeout=2)
            if self._scheme == "http"
            else http.client.HTTPSConnection(host, timeout=2, context=ssl._create_unverified_context())
        )
        try:
            connection.request("GET", "/health")
            return bool(json.load(connection.getresponse()).get("health") == "true")
        except (OSError, ValueError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def end(self, *nodes: int, how: signal.Signals = signal.SIGKILL) -> None:
        """End these, or all that run."""
        for number in nodes or tuple(self._processes):
            process = self._processes.pop(number)
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)
            process.wait(LIMIT)

    def signal(self, number: int, what: signal.Signals) -> None:
        """Send one a signal that does not end it."""
        self._processes[number].send_signal(what)
