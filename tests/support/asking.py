"""One signed request to a broker, by hand: a client asks on and on before it believes a refusal."""

from __future__ import annotations

import os
import socket
import time

from support.waiting import LIMIT
from tempos import Key, auth
from tempos.control import decode_reply, encode_request


def signed(key: Key, to: int = 0) -> bytes:
    """A request that is signed just now; ``to``: the broker of a fleet that it names."""
    plain = encode_request("hello", 7, 9)
    return auth.sign_request(key, plain, time.time_ns() // 1_000_000, os.urandom(8), to)


def answer_to(key: Key, request: bytes, address: tuple[str, int]) -> str:
    """What comes of it: "taken", or the code of the refusal, whether that is signed or not."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(LIMIT)
        sock.sendto(request, address)
        return outcome(key, sock.recv(2048))


def outcome(key: Key, answer: bytes) -> str:
    """The same of an answer that came."""
    # A plain one is a map.
    plain = answer if answer[0] < 0x90 else auth.open_reply(key, answer)[2]
    error = decode_reply(plain).error
    return "taken" if error is None else error.code
