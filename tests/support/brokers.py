"""Brokers as processes of their own, on loopback."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.waiting import LIMIT

#: How the configuration of one begins that has no fast path; to be formatted with its ports.
ON_LOOPBACK = """\
[broker]
listen = ["127.0.0.1"]
data_port = {data}
control_port = {control}
api = "127.0.0.1:{api}"
[fastpath]
mode = "off"
"""


@contextmanager
def serving(
    file: Path, log: Path, *options: str, prefix: tuple[str, ...] = (), how: signal.Signals = signal.SIGTERM
) -> Iterator[subprocess.Popen[str]]:
    """One that goes by ``file`` and is ready, started by ``prefix``; ``how`` it is ended."""
    command = (*prefix, sys.executable, "-m", "tempos_broker", "-c", str(file), *options)
    with log.open("a") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("ready"), log.read_text()
            yield process
        finally:
            process.send_signal(how)
            process.wait(LIMIT)


def get(api: int, path: str) -> dict[str, Any]:
    """A document of the control API at this port."""
    connection = http.client.HTTPConnection("127.0.0.1", api, timeout=LIMIT)
    try:
        connection.request("GET", path)
        document: dict[str, Any] = json.load(connection.getresponse())
        return document
    finally:
        connection.close()


def post(api: int, path: str, body: object = None) -> dict[str, Any]:
    """What the control API at this port answers to an order; fails where it refuses."""
    connection = http.client.HTTPConnection("127.0.0.1", api, timeout=LIMIT)
    try:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request("POST", path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        document: dict[str, Any] = json.load(response)
        assert response.status == 200, document
        return document
    finally:
        connection.close()
