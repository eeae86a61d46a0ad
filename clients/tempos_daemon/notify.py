"""Tells whoever started this daemon how far it is: people, and a service manager (systemd's datagrams)."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time

from tempos.errors import one_line

READY, STOPPING = "READY=1", "STOPPING=1"

log = logging.getLogger("tempos.daemon")


def say(words: str) -> None:
    """Print this. That nobody reads it any more, or a disk is full, is no reason to serve no more."""
    try:
        print(words, flush=True)
    except (OSError, ValueError) as error:
        log.warning("the standard output takes nothing: %s", one_line(error))


def ready(words: str) -> str:
    """The state of one that serves, with what `systemctl status` is to show of it."""
    return f"{READY}\nSTATUS={one_line(words)}"


def reloading() -> str:
    """The state while a configuration is read again; followed by ``READY``."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def notify(state: str) -> None:
    """Tell a state; does nothing where nobody asked for it (no ``NOTIFY_SOCKET``) or nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    # A leading @ stands for the zero byte of an abstract name.
    address = "\0" + address[1:] if address.startswith("@") else address
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.setblocking(False)
        sock.connect(address)
        sock.send(state.encode())
