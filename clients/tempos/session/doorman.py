"""Who may come in at a member's data socket: the broker's data port, and nobody else.

The broker proves it by what it sends there first (:mod:`tempos.session.proof`): where that comes from, events
come from, and a stranger cannot know what it says. Until then nothing else is let in, nor can any event come.

The kernel does it (a filter of classic BPF, socket(7)), so in Python it costs an event nothing. What it turns
away it cuts to nothing, rather than to drop it: so a stranger's datagram comes as an empty one, which no
broker sends, and can be counted. Where there are no such filters the reader asks for each datagram.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys

from tempos.session import proof
from tempos.wire import KEEP_ALIVE

_LINUX = sys.platform == "linux"
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
#: struct sock_filter of <linux/filter.h>; codes: loads of words, halves, bytes, the length; jumps; the end.
_INSTRUCTION = struct.Struct("=HBBI")
_WORD, _HALF, _BYTE, _LENGTH = 0x20, 0x28, 0x30, 0x80
_IF_EQUAL, _IF_MORE, _RETURN = 0x15, 0x25, 0x06
#: Where the IPv4 header begins to a filter of a UDP socket, for which offset 0 is the UDP header.
_NETWORK = 0xFFF00000
_SOURCE, _UDP = _NETWORK + 12, 8
_ALL = 0xFFFFFFFF


class Doorman:
    """Of one subscriber, whatever sockets it has in its life."""

    def __init__(self) -> None:
        self._sock: socket.socket | None = None
        #: From where events come; None: not known yet.
        self.broker: tuple[str, int] | None = None
        #: Who sent the datagram that is being read, where the reader knows.
        self.sender: tuple[str, int] | None = None
        #: Whether a proof may come from anywhere.
        self.expects_proof = True
        # Whether everybody is let in, for the broker is one of before that proves nothing.
        self._everybody = False

    @property
    def stands(self) -> bool:
        """Whether an empty datagram is a stranger's."""
        return self._sock is not None and not self._everybody

    def take_post(self, sock: socket.socket) -> None:
        """Stand at a socket that is not bound yet; what comes is not known to be the broker's."""
        self._sock, self.broker, self.expects_proof, self._everybody = sock, None, True, False
        self._instruct()

    def expect_proof(self) -> None:
        """Let a proof in from wherever it comes; events go on coming from where they came."""
        if not self.expects_proof and not self._everybody:
            self.expects_proof = True
            self._instruct()

    def admit(self) -> None:
        """The datagram that is being read is a proof: where it comes from the events will come from, too."""
        if self.expects_proof and (self.sender or self.broker):
            self.broker = self.sender or self.broker
            self.expects_proof = False
            self._instruct()

    def keep_alive(self, broker: tuple[str, int]) -> None:
        """Send something to where events come from: NATs and firewalls let in what answers it."""
        if self._sock is not None and self._sock.fileno() >= 0:
            # One that cannot leave is followed by the next.
            with contextlib.suppress(OSError):
                self._sock.sendto(KEEP_ALIVE, broker)

    def joined(self) -> None:
        """There is a membership. If nothing had to be proved for it the broker is one of before."""
        if self.broker is None and self._sock is not None:
            self._everybody = True
            self._instruct()

    def lets_in(self, datagram: bytes, sender: tuple[str, int]) -> bool:
        """The same question for a datagram that the kernel did not look at."""
        if self._sock is None or self._everybody or sender == self.broker:
            return True
        return self.expects_proof and proof.decode(datagram) is not None

    def _instruct(self) -> None:
        if not _LINUX or self._sock is None or self._sock.fileno() < 0:
            return
        if self._everybody:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
            return
        program = b"".join(_INSTRUCTION.pack(*each) for each in self._program())
        memory = ctypes.create_string_buffer(program, len(program))
        described = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(memory))
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)

    def _program(self) -> list[tuple[int, int, int, int]]:
        service = [
            (_LENGTH, 0, 0, 0),
            (_IF_EQUAL, 0, 3, _UDP + proof.SIZE),
            (_BYTE, 0, 0, _UDP),
            (_IF_EQUAL, 0, 1, 0),
            (_RETURN, 0, 0, _ALL),
        ]
        rest = service if self.expects_proof else []
        # Only the header is left.
        turned_away = (_RETURN, 0, 0, _UDP)
        if self.broker is None:
            return [*rest, turned_away]
        ip, port = self.broker
        return [
            (_WORD, 0, 0, _SOURCE),
            (_IF_EQUAL, 0, 3, int.from_bytes(socket.inet_aton(ip), "big")),
            (_HALF, 0, 0, 0),
            (_IF_EQUAL, 0, 1, port),
            (_RETURN, 0, 0, _ALL),
            *rest,
            turned_away,
        ]
