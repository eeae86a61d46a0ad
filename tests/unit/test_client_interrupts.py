"""An interrupt, wherever it comes, is raised, and whoever closes a client afterwards is done.

The interpreter raises what a signal's handler raises as a function written in Python is entered and after
each call; those are the places that a profiler is told of, so one stands in for the signal.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
from support.minibroker import MiniBrokerThread
from support.waiting import LIMIT

from tempos import Topic
from tempos._loop import LoopThread
from tempos.blocking import Publisher, Subscriber

HEAT = Topic(7, "heat")


#: From there on whatever is done is interrupted.
BEGINNINGS = {
    each.__code__ for each in (LoopThread.call, LoopThread.soon, Publisher.publish, Publisher.flush)
}


class Interrupt(BaseException):
    pass


@contextlib.contextmanager
def interrupted(place: int) -> Iterator[Callable[[], bool]]:
    """Raise :class:`Interrupt` at the so-manieth place of the work of this thread; gives whether it was."""
    left, has_begun = place, False

    def look(frame: FrameType, event: str, _: object) -> None:
        nonlocal left, has_begun
        # The interpreter's own thread and loop are made, before it asks anything of them.
        has_begun = has_begun or frame.f_code in BEGINNINGS
        if has_begun and event in ("call", "c_return"):
            left -= 1
            if left == 0:
                raise Interrupt

    # What is raised while the interpreter clears up is swallowed, and that may come anywhere.
    gc.disable()
    sys.setprofile(look)
    try:
        yield lambda: left <= 0
    finally:
        sys.setprofile(None)
        gc.enable()


def in_time(work: Callable[[], None]) -> None:
    """Done by another thread, so that one that hangs is a failure."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised in the test's own thread
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive(), "it hangs"
    if failures:
        raise failures[0]


def subscriber(broker: MiniBrokerThread) -> Subscriber:
    return Subscriber("127.0.0.1", "heat", control_port=broker.control_port)


def publisher(broker: MiniBrokerThread) -> Publisher:
    return Publisher("127.0.0.1", data_port=broker.data_port, control_port=broker.control_port)


def wait(client: Subscriber) -> None:
    with contextlib.suppress(TimeoutError):
        client.next(0.001)


def publish(client: Publisher) -> None:
    for number in range(3):
        client.publish("heat", number)


def flush(client: Publisher) -> None:
    client.publish("heat", 1)
    client.flush()


ACTS = {
    "open a subscriber": (subscriber, None),
    "wait for an event": (subscriber, wait),
    "close a subscriber": (subscriber, Subscriber.close),
    "open a publisher": (publisher, None),
    "publish": (publisher, publish),
    "flush": (publisher, flush),
    "close a publisher": (publisher, Publisher.close),
}


@pytest.mark.parametrize("act", ACTS)
def test_an_interrupt_wherever_it_comes_leaves_nobody_waiting(act: str) -> None:
    make, work = ACTS[act]
    with MiniBrokerThread(HEAT) as broker:
        for place in itertools.count(1):
            reached: list[bool] = []

            def play(place: int = place, reached: list[bool] = reached) -> None:
                client = make(broker)
                if work is None:
                    with contextlib.suppress(Interrupt), interrupted(place) as was:
                        client.__enter__()
                    reached.append(was())
                    client.close()
                    return
                with client:
                    # Its thread goes later, for the same reason.
                    kept = client._thread
                    with contextlib.suppress(Interrupt), interrupted(place) as was:
                        work(client)
                    reached.append(was())
                client.close()
                assert kept is not client._thread

            in_time(play)
            if not reached[0]:
                assert place > 5
                break
        assert broker.wait(lambda: not broker.core.members("heat"))
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("tempos")]
