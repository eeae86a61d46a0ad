"""The peers' protocols in bytes, held against examples of their specifications."""

from __future__ import annotations

import pytest

from tempos_bench.peers.framing import Mqtt, Nats, Resp, Zmtp
from tempos_bench.peers.talk import MARK, PeerRefused, Step, filler


def parts(talk: object) -> tuple[bytes, bytes]:
    return talk.head, talk.tail  # type: ignore[attr-defined]


def test_nats() -> None:
    assert parts(Nats().publish("r", 32)) == (b"PUB r 32\r\n", b"\r\n")
    assert parts(Nats().deliver("r", 32)) == (b"MSG r 1 32\r\n", b"\r\n")
    assert Nats().subscriber("r", None)[-1].send == b"SUB r 1\r\nPING\r\n"
    assert Nats().subscriber("r", "workers")[-1].send == b"SUB r workers 1\r\nPING\r\n"
    (ping,) = Nats().deliver("r", 32).asides
    assert (ping.head, ping.length, ping.answer) == (b"PING\r\n", 6, b"PONG\r\n")


def test_mqtt_publish_with_and_without_a_packet_id() -> None:
    # PUBLISH, remaining length: topic (2 + 1), no properties (1), body.
    assert Mqtt(0).publish("r", 32).head == bytes((0x30, 36)) + b"\x00\x01r\x00"
    talk = Mqtt(1).publish("r", 32)
    assert talk.head == bytes((0x32, 38)) + b"\x00\x01r\x00\x00\x00"
    assert talk.head[talk.id_at : talk.id_at + 2] == b"\x00\x00"
    assert talk.id_at == 5
    assert [(aside.head, aside.length, aside.acknowledges) for aside in talk.asides] == [(b"\x40\x02", 4, 1)]
    assert Mqtt(1).deliver("r", 32).receipt == b"\x40\x02\x00\x00"


@pytest.mark.parametrize(
    ("size", "length"), [(123, b"\x7f"), (124, b"\x80\x01"), (16379, b"\xff\x7f"), (16380, b"\x80\x80\x01")]
)
def test_mqtt_remaining_length_grows_at_its_borders(size: int, length: bytes) -> None:
    assert Mqtt(0).publish("r", size).head == b"\x30" + length + b"\x00\x01r\x00"


def test_mqtt_shared_subscription_and_its_answers() -> None:
    connect, subscribe = Mqtt(1).subscriber("r", "workers")
    assert subscribe.send == b"\x82\x16\x00\x01\x00\x00\x10$share/workers/r\x01"
    assert not connect.answered(b"\x20\x03\x00\x00")
    assert connect.answered(b"\x20\x03\x00\x00\x00")
    with pytest.raises(PeerRefused, match="0x87"):
        connect.answered(b"\x20\x03\x00\x87\x00")
    assert subscribe.answered(b"\x90\x04\x00\x01\x00\x01")
    with pytest.raises(PeerRefused, match="subscribe"):
        subscribe.answered(b"\x90\x04\x00\x01\x00\x9e")


def test_redis() -> None:
    assert Resp().publish("r", 32).head == b"*3\r\n$7\r\nPUBLISH\r\n$1\r\nr\r\n$32\r\n"
    assert Resp().deliver("r", 32).head == b"*3\r\n$7\r\nmessage\r\n$1\r\nr\r\n$32\r\n"
    (step,) = Resp().subscriber("r", None)
    assert step.send == b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nr\r\n"
    assert step.answered(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nr\r\n:1\r\n")


def test_zeromq_short_and_long_frames() -> None:
    assert Zmtp().publish("r", 32).head == b"\x00\x21r"
    assert Zmtp().publish("r", 254).head == b"\x00\xffr"
    assert Zmtp().publish("r", 255).head == b"\x02\x00\x00\x00\x00\x00\x00\x01\x00r"
    greeting, ready, subscribe = Zmtp().subscriber("r", None)
    assert len(greeting.send) == 64
    assert greeting.send[12:32] == b"NULL" + bytes(16)
    assert ready.send == b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB"
    assert ready.answered(b"\x04\x06\x05READY")
    assert subscribe.send == b"\x00\x02\x01r"
    with pytest.raises(ValueError, match="one character"):
        Zmtp().publish("topic", 32)


@pytest.mark.parametrize("wire", [Resp(), Zmtp()])
def test_what_has_no_groups_says_so(wire: Resp | Zmtp) -> None:
    with pytest.raises(PeerRefused, match="no groups"):
        wire.subscriber("r", "workers")


@pytest.mark.parametrize("step", [Nats().publisher()[0], Mqtt().publisher()[0], Resp().publisher()[0],
                                  Zmtp().publisher()[0], Zmtp().publisher()[1]])  # fmt: skip
def test_an_answer_of_another_protocol_ends_the_handshake(step: Step) -> None:
    with pytest.raises(PeerRefused):
        step.answered(b"HTTP/1.1 400 Bad Request\r\n" + bytes(90))


def test_a_body_has_room_for_its_mark() -> None:
    assert len(filler(MARK.size)) == 0
    assert len(filler(32)) == 32 - MARK.size
    with pytest.raises(ValueError, match="15 bytes"):
        filler(15)
