"""Which socket a datagram goes to: the classic program by itself, and in the kernel."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import Quality, Topic, Unavailable
from tempos_broker.slowpath import selector
from tempos_broker.slowpath.selector import Instruction, Selection, Selector, classic_program
from tempos_broker.slowpath.sockets import DataSocket, Pair, open_all

BUFFER = 1 << 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux selects between sockets")


def interpret(program: list[Instruction], payload: bytes) -> int:
    """What the kernel's interpreter does with these instructions (Documentation/networking/filter.rst)."""
    a = at = 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        if code == selector.LOAD_BYTE:
            if k >= len(payload):
                return 0
            a = payload[k]
        elif code == selector.LOAD_TWO:
            if k + 2 > len(payload):
                return 0
            a = payload[k] << 8 | payload[k + 1]
        elif code == selector.SKIP:
            at += k
        elif code == selector.SKIP_IF_LESS:
            assert max(if_true, if_false) < 256, "one byte each"
            at += if_true if a >= k else if_false
        else:
            assert code == selector.RETURN
            return k


@given(st.sets(st.integers(0, 254)), st.sets(st.integers(256, 600) | st.integers(256, 65534), max_size=300))
def test_the_classic_program_tells_every_id(narrow: set[int], wide: set[int]) -> None:
    program = classic_program(narrow | wide)
    assert {byte for byte in range(255) if interpret(program, bytes((byte, 7)))} == narrow
    asked = {id_ + by for id_ in wide for by in (-1, 0, 1)} | {0, 5, 255, 256, 65535}
    assert {id_ for id_ in asked if interpret(program, b"\xff" + id_.to_bytes(2, "big"))} == wide
    assert [interpret(program, payload) for payload in (b"", b"\xff", b"\xff\1")] == [0, 0, 0]


def test_strict_ids_in_too_many_ranges_share_a_socket_with_the_others() -> None:
    every_other = [Topic(id_, str(id_), Quality.SQ) for id_ in range(256, 5000, 2)]
    assert len(classic_program({topic.id for topic in every_other[:900]})) <= selector.LONGEST
    by = Selector("auto", refuse)
    with divided(by, every_other) as (pair,):
        assert not pair.apart
        assert by.selection.kind == "one"
        assert "ids of strict topics lie in too many ranges" in by.selection.reason


@linux
def test_a_reload_to_too_many_ranges_leaves_the_sockets_as_they_are() -> None:
    by = Selector("classic", refuse)
    with divided(by, topics({1})) as (pair,):
        by.configure([pair], [Topic(id_, str(id_), Quality.SQ) for id_ in range(256, 5000, 2)])
        assert "by the classes of before the last reload: the ids of strict" in by.selection.reason
        by.configure([pair], [Topic(300, "wide", Quality.SQ)])
        assert "before the last reload" not in by.selection.reason
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
            for datagram in (b"\1", b"\xff\1\x2c", b"\xff\1\x2d", b"\xff"):
                publisher.sendto(datagram, pair.best_effort.sock.getsockname())
        assert waiting(pair.strict) == [b"\xff\1\x2c"]
        assert waiting(pair.best_effort) == [b"\1", b"\xff\1\x2d", b"\xff"]


def topics(strict: set[int]) -> list[Topic]:
    return [
        Topic(id_, f"t{id_}", Quality.SQ if id_ in strict else Quality.BQ)
        for id_ in range(1, 255)
        if id_ % 3 or id_ in strict
    ]


@contextlib.contextmanager
def divided(by: Selector, first: list[Topic]) -> Iterator[list[Pair]]:
    pairs = open_all(["127.0.0.1"], 0, BUFFER)
    try:
        pairs = by.divide(pairs, first, BUFFER)
        yield pairs
    finally:
        for pair in pairs:
            pair.close()


def waiting(source: DataSocket) -> list[bytes]:
    got = []
    with contextlib.suppress(BlockingIOError):
        while True:
            got.append(source.sock.recv(100))
    return got


def send_every_byte(pair: Pair) -> list[bytes]:
    datagrams = [b"", *(bytes((byte, 1)) for byte in range(256))]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
        publisher.connect(pair.best_effort.sock.getsockname())
        for datagram in datagrams:
            publisher.send(datagram)
    return datagrams


def refuse(strict: int, best_effort: int) -> None:
    raise Unavailable("no program here")


@linux
@pytest.mark.parametrize("wanted", ["auto", "classic"])
def test_the_kernel_sorts_by_class_also_after_a_reload(wanted: str) -> None:
    by = Selector(wanted, refuse)
    for_first, for_second = {1, 31, 32, 63, 200, 254}, {2, 64, 200}
    with divided(by, topics(for_first)) as (pair,):
        assert by.selection.kind == "classic"
        assert ("no program here" in by.selection.reason) == (wanted == "auto")
        for number, strict in enumerate((for_first, for_second)):
            if number:
                by.configure([pair], topics(strict))
            sent = send_every_byte(pair)
            to_strict = waiting(pair.strict)
            assert {datagram[0] for datagram in to_strict} == strict
            assert waiting(pair.best_effort) == [each for each in sent if each not in to_strict]


@linux
def test_the_fast_paths_program_comes_first_and_gets_both_descriptors() -> None:
    asked: list[tuple[int, int]] = []
    by = Selector("auto", lambda strict, best_effort: asked.append((strict, best_effort)))
    with divided(by, topics({1})) as (pair,):
        assert by.selection.kind == "ebpf"
        assert asked == [(pair.strict.fd, pair.best_effort.fd)]


@pytest.mark.parametrize(("wanted", "words"), [("one", "says sockets = one"), ("ebpf", "no program here")])
def test_without_a_selection_one_socket_brings_everything_and_stays_exclusive(
    wanted: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    by = Selector(wanted, refuse)
    with divided(by, topics({1})) as (pair,):
        assert by.selection == Selection("one", by.selection.reason)
        if sys.platform == "linux":
            assert words in by.selection.reason
        assert not pair.apart
        assert send_every_byte(pair) == waiting(pair.best_effort)
        assert pair.best_effort.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
    assert any("share the data socket" in record.getMessage() for record in caplog.records) == (
        wanted != "one"
    )


@linux
def test_two_sockets_keep_out_a_second_broker_and_every_stranger() -> None:
    with divided(Selector("classic", refuse), topics({1})) as (pair,):
        address, port = pair.best_effort.sock.getsockname()
        with pytest.raises(Unavailable, match="another program has this port"):
            open_all([address], port, BUFFER)
        # Even one of the same user that asks to share the port gets nothing that is sent to it.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            stranger.bind((address, port))
            stranger.setblocking(False)
            sent = send_every_byte(pair)
            assert len(waiting(pair.best_effort)) + len(waiting(pair.strict)) == len(sent)
            with pytest.raises(BlockingIOError):
                stranger.recv(100)


@linux
def test_a_port_that_somebody_shares_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="another program has this port"):
            open_all(["127.0.0.1"], stranger.getsockname()[1], BUFFER)
