"""Members by hand: what a client does to show that it receives there (:mod:`tempos.session.proof`)."""

from __future__ import annotations

import socket
import time
from typing import Any

from tempos.control import Code, Reply, decode_reply, encode_request
from tempos.session.proof import decode
from tempos_broker.account.accounts import Holder
from tempos_broker.broker import Broker
from tempos_broker.control.proofs import Step


def subscribe(control: socket.socket, data: socket.socket, number: int, client: int, **fields: Any) -> Reply:
    """Ask and prove until there is an answer; both sockets have a timeout, ``control`` is connected."""
    proof = None
    while True:
        control.send(encode_request("subscribe", number, client, proof=proof, **fields))
        while (reply := decode_reply(control.recv(2048))).id != number:
            pass
        if reply.error is None or reply.error.code != Code.PROVE:
            return reply
        proof = reply.proof or proof_at(data, client)


def proof_at(data: socket.socket, client: int) -> bytes:
    """What came to a data socket for a client to repeat; whatever else comes is let go."""
    while True:
        told = decode(data.recv(2048))
        if told is not None and told[0] == client:
            return told[1]


def granted(broker: Broker, ip: str, port: int, client: int, asked: str | None) -> bytes:
    """What a broker would give somebody, for members that are nowhere."""
    proofs = broker._control._proofs
    assert proofs is not None
    return proofs.grant(Step.ENDPOINT, Holder(ip, port, client), asked, time.monotonic())
