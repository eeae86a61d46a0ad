"""The table of filters through a real MQTT 5 server: what matches there matches here.

Runs where Mosquitto is installed (Debian: ``apt-get install mosquitto``, as ``make peers`` does).
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.filters import BAD_FILTERS, MATCHES
from support.ports import free_ports
from support.waiting import LIMIT

from tempos import names

SERVER = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
CONNACK, PUBLISH, SUBACK, PINGRESP, DISCONNECT = 0x20, 0x30, 0x90, 0xD0, 0xE0

pytestmark = pytest.mark.skipif(SERVER is None, reason="Mosquitto is not installed")


class Client:
    """One MQTT 5 client, as much of one as it takes to subscribe and to publish at QoS 0."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), LIMIT)
        self._buffer = b""
        self._send(0x10, b"\x00\x04MQTT\x05\x02\x00\x00\x00" + _text(""))
        assert self._receive()[0] == CONNACK

    def close(self) -> None:
        self._socket.close()

    def subscribes(self, wanted: str) -> bool:
        """Subscribe; whether the server took it."""
        self._send(0x82, b"\x00\x01\x00" + _text(wanted) + b"\x00")
        kind, body = self._receive()
        return kind == SUBACK and body[-1] < 0x80

    def published(self, names: list[str]) -> list[str]:
        """Publish to each of these names; those that came back."""
        for name in names:
            self._send(PUBLISH, _text(name) + b"\x00")
        self._send(0xC0, b"")
        back = []
        while (packet := self._receive())[0] != PINGRESP:
            kind, body = packet
            assert kind == PUBLISH, packet
            back.append(body[2 : 2 + int.from_bytes(body[:2], "big")].decode())
        return back

    def _send(self, kind: int, body: bytes) -> None:
        size, length = len(body), b""
        while size > 0x7F:
            length, size = length + bytes((size & 0x7F | 0x80,)), size >> 7
        self._socket.sendall(bytes((kind,)) + length + bytes((size,)) + body)

    def _receive(self) -> tuple[int, bytes]:
        """The next packet; a DISCONNECT where the server closes without one."""
        kind = self._take(1)
        if not kind:
            return DISCONNECT, b""
        size = shift = 0
        while (byte := self._take(1)[0]) & 0x80:
            size, shift = size | (byte & 0x7F) << shift, shift + 7
        return kind[0], self._take(size | byte << shift)

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = self._socket.recv(65536)
            if not data:
                return b""
            self._buffer += data
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server of our own on a loopback port of its own."""
    assert SERVER is not None
    (port,) = free_ports(1)
    file: Path = tmp_path_factory.mktemp("mosquitto") / "conf"
    # A server that root starts becomes another user, unless it is told to stay.
    user = pwd.getpwuid(os.getuid()).pw_name
    file.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nuser {user}\n"
                    "log_dest stderr\n")  # fmt: skip
    with subprocess.Popen([SERVER, "-c", file], stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            for line in server.stderr:
                if "running" in line:
                    break
            else:
                pytest.fail("Mosquitto did not start")
            yield port
        finally:
            server.terminate()
            server.communicate(timeout=LIMIT)


def _their(text: str) -> str:
    """``$SYS`` is theirs to publish, so another name that begins with ``$`` stands for it."""
    return text.replace("$SYS", "$app")


def test_what_matches_there_matches_here(port: int) -> None:
    every = sorted({_their(name) for _, name, _ in MATCHES})
    for wanted in sorted({_their(each) for each, _, _ in MATCHES}):
        with closing(Client(port)) as client:
            assert client.subscribes(wanted)
            assert client.published(every) == [name for name in every if names.matches(wanted, name)], wanted


def test_what_is_no_filter_there_is_none_here(port: int) -> None:
    ill_formed = [each for each, why in BAD_FILTERS if isinstance(each, str) and '"' in why]
    assert ill_formed
    for wanted in ill_formed:
        with closing(Client(port)) as client:
            assert not client.subscribes(wanted), wanted
