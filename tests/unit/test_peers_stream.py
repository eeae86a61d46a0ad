"""The C loops of the raw generators, over a pair of sockets: no server needed."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tempos import wire
from tempos_bench.peers import stream
from tempos_bench.peers.framing import Datagrams, Mqtt, Nats, Resp
from tempos_bench.peers.talk import MARK, PeerRefused, Talk, filler

pytest.importorskip("tempos_bench._stream", reason="the stream helper is not compiled")

RUN = 3


class Beside:
    """Runs something in a thread, and gives back what came of it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._found: list[object] = []
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            self._found.append(work())
        except Exception as error:  # noqa: BLE001 - raised where it is asked for
            self._found.append(error)

    def result(self) -> object:
        self._thread.join(10)
        (found,) = self._found
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def pair(stack: ExitStack, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
    a, b = socket.socketpair(socket.AF_UNIX, kind)
    return stack.enter_context(a), stack.enter_context(b)


def ended(stack: ExitStack) -> int:
    """A file that tells a receiver to end once nothing more comes."""
    read, write = os.pipe()
    os.write(write, b"\n")
    for fd in (read, write):
        stack.callback(os.close, fd)
    return read


def receive(stack: ExitStack, sock: socket.socket, talk: Talk, expect: int = 1000) -> stream.Got:
    return stream.receive([sock], talk, RUN, end_fd=ended(stack), idle=0.1, expect=expect, room=expect)


def frame(talk: Talk, sequence: int, run: int = RUN) -> bytes:
    return talk.head + MARK.pack(1, sequence, run) + filler(talk.body) + talk.tail


@pytest.mark.parametrize("size", [16, 32, 1024])
def test_what_is_sent_is_what_is_framed(stack: ExitStack, size: int) -> None:
    a, b = pair(stack)
    talk = Nats().publish("r", size)
    assert stream.send(a, talk, RUN, count=3).sent == 3
    data = b.recv(1 << 16)
    length = len(talk.head) + size + len(talk.tail)
    assert len(data) == 3 * length
    for sequence in range(3):
        one = data[sequence * length : (sequence + 1) * length]
        mark = MARK.unpack_from(one, len(talk.head))
        assert (mark[1], mark[2]) == (sequence, RUN)
        assert one == talk.head + MARK.pack(*mark) + filler(size) + talk.tail


def test_frames_cut_anywhere_are_put_together_and_a_ping_is_answered(stack: ExitStack) -> None:
    a, b = pair(stack)
    talk = Nats().deliver("r", 32)
    reading = Beside(lambda: receive(stack, a, talk))
    data = frame(talk, 0) + b"PING\r\n" + frame(talk, 1) + frame(talk, 1) + frame(talk, 2, run=RUN - 1)
    for at in range(len(data)):
        b.send(data[at : at + 1])
    got = reading.result()
    assert isinstance(got, stream.Got)
    assert (got.received, got.repeated, got.stale, got.by_member) == (2, 1, 1, (2,))
    assert len(got.latency_ns) == 2
    assert b.recv(100) == b"PONG\r\n"


def test_what_nobody_understands_is_told_and_ends_it(stack: ExitStack) -> None:
    a, b = pair(stack)
    talk = Nats().deliver("r", 32)
    b.send(frame(talk, 0) + b"-ERR 'Slow Consumer'\r\n")
    with pytest.raises(PeerRefused, match="Slow Consumer"):
        receive(stack, a, talk)


def test_a_peer_that_hangs_up_is_told(stack: ExitStack) -> None:
    a, b = pair(stack)
    b.close()
    with pytest.raises(BrokenPipeError):
        receive(stack, a, Nats().deliver("r", 32))


def test_packet_ids_differ_and_are_given_back_in_receipts(stack: ExitStack) -> None:
    a, b = pair(stack)
    sending = Beside(lambda: stream.send(a, Mqtt(1).publish("r", 32), RUN, count=5, window=2))
    talk, seen = Mqtt(1).deliver("r", 32), []
    length = len(talk.head) + talk.body
    # Never more than the window before one is acknowledged.
    for _ in range(5):
        data = b.recv(length)
        seen.append(struct.unpack_from("!H", data, talk.id_at)[0])
        b.send(b"\x40\x02" + data[talk.id_at : talk.id_at + 2])
    assert sending.result().sent == 5  # type: ignore[attr-defined]
    assert seen == [1, 2, 3, 4, 5]

    head = bytearray(talk.head)
    head[talk.id_at : talk.id_at + 2] = b"\x12\x34"
    b.send(bytes(head) + MARK.pack(1, 0, RUN) + filler(32))
    assert receive(stack, a, talk).received == 1
    assert b.recv(100) == b"\x40\x02\x12\x34"


def test_a_window_without_acknowledgements_ends_with_an_error(stack: ExitStack) -> None:
    a, _ = pair(stack)
    with pytest.raises(TimeoutError):
        stream.send(a, Resp().publish("r", 32), RUN, count=5, window=10)


def test_a_schedule_is_what_send_times_are_of(stack: ExitStack) -> None:
    a, b = pair(stack)
    talk = Nats().publish("r", 32)
    sent = stream.send(a, talk, RUN, count=20, interval=0.001)
    data = b.recv(1 << 16)
    length = len(talk.head) + 32 + 2
    times = [MARK.unpack_from(data, n * length + len(talk.head))[0] for n in range(20)]
    assert times == [sent.began_ns + n * 1_000_000 for n in range(20)]


def udp_pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    a, b = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
    b.bind(("127.0.0.1", 0))
    a.connect(b.getsockname())
    return a, b


@pytest.mark.parametrize("batch", [False, True])
def test_datagrams_of_tempos_batched_and_single(stack: ExitStack, batch: bool) -> None:
    a, b = udp_pair(stack)
    talk = Datagrams(batch=batch).talk(7, 32)
    events, _ = stream.fitting(talk, paced=False)
    assert events == (42 if batch else 1)
    stream.send(a, talk, RUN, count=2 * events, gso=False)
    first = wire.decode_event(b.recv(2048))
    assert (first.topic, first.is_batch, len(first.bodies)) == (7, batch, events)
    assert [MARK.unpack_from(body)[1] for body in first.bodies] == list(range(events))
    b.recv(2048)
    stream.send(a, talk, RUN, count=2 * events, gso=True)
    got = receive(stack, b, talk)
    assert (got.received, got.repeated, got.damaged) == (2 * events, 0, 0)


def test_a_schedule_of_full_batches_waits_until_one_is_full(stack: ExitStack) -> None:
    a, b = udp_pair(stack)
    talk = Datagrams(batch=True).talk(7, 32)
    sent = stream.send(a, talk, RUN, count=84, interval=0.0001, full=True)
    # The last event of the second batch is due 83 intervals after the begin.
    assert sent.ended_ns - sent.began_ns >= 8_300_000
    assert [len(wire.decode_event(b.recv(2048)).bodies) for _ in range(2)] == [42, 42]


def test_datagrams_that_are_none_of_ours_are_counted_as_damaged(stack: ExitStack) -> None:
    a, b = udp_pair(stack)
    talk = Datagrams(batch=True).talk(7, 32)
    header = wire.encode_event(7, publisher=1, sequence=0, sent_ns=0, body=b"", flags=1)
    good = struct.pack("!H", 32) + MARK.pack(1, 0, RUN) + filler(32)
    for payload in (b"\7", header + good[:-1], header + b"\0", header + b"\0\7seven..", header + good):
        a.send(payload)
    got = receive(stack, b, talk)
    assert (got.received, got.damaged) == (1, 4)


def test_bodies_too_small_for_a_mark_are_refused(stack: ExitStack) -> None:
    a, _ = pair(stack)
    with pytest.raises(OSError, match="Invalid"):
        stream.send(a, Nats().publish("r", 15), RUN, count=1)
