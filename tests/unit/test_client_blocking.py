"""The blocking Publisher and Subscriber: the same promises to a script, on a background thread."""

from __future__ import annotations

import socket
import threading

import pytest
from support.minibroker import MiniBrokerThread

from tempos import BodyError, ControlRefused, EventTooBig, Framing, LocalError, NoAnswer, Topic, control
from tempos.blocking import WAITING, Publisher, Subscriber

HEAT = Topic(7, "heat")
RAW = Topic(8, "raw", framing=Framing.RAW)


def no_thread_is_left() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith("tempos")]


@pytest.mark.parametrize("linger", [0, 0.001])
def test_events_go_through_and_heartbeats_run_beside_the_caller(linger: float) -> None:
    with MiniBrokerThread(HEAT, RAW, heartbeat_ms=20) as broker:
        port = broker.control_port
        with (
            Subscriber("127.0.0.1", "heat", group="g", control_port=port, timeout=0.2) as sub,
            Publisher("127.0.0.1", data_port=broker.data_port, control_port=port, linger=linger) as pub,
        ):
            for number in range(2 * WAITING):
                pub.publish("heat", number)
                if not number % 512:
                    # Loopback has no flow control.
                    pub.flush()
            pub.publish(RAW, b"nobody listens to this one")
            pub.flush()
            assert pub.stats.events == 2 * WAITING + 1
            assert [event.unpack() for event in sub] == list(range(2 * WAITING))
            assert sub.stats.events == 2 * WAITING
            # The caller sits here; the thread goes on telling.
            sent = pub.stats.datagrams - 1
            assert broker.wait(lambda: broker.core.told.get((7, "g", 1)) == sent)
            assert sub.poll() is None
            with pytest.raises(TimeoutError):
                sub.next(0.01)
        assert broker.core.members("heat") == []
    assert no_thread_is_left()


def test_errors_reach_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "RETRY_AFTER", (0.01, 0.01))
    with MiniBrokerThread(HEAT, RAW) as broker:
        with Publisher("127.0.0.1", control_port=broker.control_port) as pub:
            with pytest.raises(ControlRefused, match="heat, raw"):
                pub.publish("cold", b"")
            with pytest.raises(EventTooBig):
                pub.publish("heat", bytes(65507))
            with pytest.raises(BodyError):
                pub.publish("raw", 1)
        with pytest.raises(LocalError, match="not open"):
            pub.publish("heat", b"")
        with pytest.raises(ControlRefused):
            Subscriber("127.0.0.1", "cold", control_port=broker.control_port).__enter__()
        broker.deaf = True
        with pytest.raises(NoAnswer):
            Subscriber("127.0.0.1", "heat", control_port=broker.control_port).__enter__()
    with pytest.raises(LocalError, match="not open"):
        Subscriber("127.0.0.1", "heat").next()
    assert no_thread_is_left()


def test_what_goes_wrong_on_the_thread_is_raised_by_the_next_call() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        pub = Publisher("127.0.0.1", data_port=receiver.getsockname()[1], topics=[HEAT])
        with pub:
            inner = pub._open_inner()
            real, inner._socket = inner._socket, _Unplugged()
            real.close()
            pub.publish("heat", b"")
            with pytest.raises(LocalError, match="cannot send"):
                pub.flush()
    assert no_thread_is_left()


class _Unplugged:
    def send(self, datagram: bytes) -> int:
        raise PermissionError(1, "Operation not permitted")

    def getsockopt(self, *_: int) -> int:
        return 0

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        return


def test_a_static_member_listens_without_a_broker() -> None:
    with (
        Subscriber.listen("127.0.0.1", 0, topics=[HEAT], timeout=5) as sub,
        Publisher("127.0.0.1", data_port=sub.member.port, topics=[HEAT]) as pub,
    ):
        pub.publish("heat", b"direct")
        assert next(iter(sub)).body == b"direct"
