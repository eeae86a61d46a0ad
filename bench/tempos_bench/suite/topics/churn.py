"""Topics are made and removed all the time while others carry events: nothing of theirs is lost or left.

Strict and best-effort events flow steadily, each to a member of its own, on the path that the topics take.
Beside them topics are made by the control API and removed again, so many a second; the state is kept. What
the broker holds (memory, descriptors, maps in the kernel) after a first round, in which all is used once, is
held against what it holds at the end. What links and the members' sockets dropped is told apart (see
:mod:`tempos_bench.measure.legs`), and what the broker never took from what it took and nobody heard. The
broker's loop has a real-time priority, below those who send and receive: its sockets are not to overflow for
what else the machine does meanwhile, who churns included.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from tempos import Framing, Quality, Topic
from tempos_bench.measure.broker import Broker, topic_status
from tempos_bench.measure.legs import Legs, beyond
from tempos_bench.measure.load import Flow, Load, Subject
from tempos_bench.measure.stats import summarize
from tempos_bench.nodes.topology import Topology, build
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.run import Run

_PORTS = {"SQ": 9001, "BQ": 9002}
_TOPICS = (
    Topic(id=1, name="SQ", quality=Quality.SQ, framing=Framing.EVENT),
    Topic(id=2, name="BQ", quality=Quality.BQ, framing=Framing.EVENT),
)
_MIB = 1 << 20
#: Of the broker's loop under SCHED_FIFO.
_BROKER_PRIORITY = 10


@dataclass(frozen=True, slots=True)
class Parameters:
    """``rate``: events/s over both topics, for ``seconds``; ``churn``: topics made and removed a second.

    ``at_once``: made before the first of them is removed. ``warm``: seconds of the same beforehand. ``modes``
    of the fast path.
    """

    rate: float
    seconds: float
    churn: float
    at_once: int
    warm: float
    payload: int
    modes: tuple[str, ...]


@dataclass(slots=True)
class _Churn:
    made: list[float] = field(default_factory=list)
    removed: list[float] = field(default_factory=list)


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    progress.plan(len(p.modes))
    figures: list[Figure] = []
    with build() as topology, ExitStack() as stack:
        load = Load(stack, topology, tuple(_PORTS.values()), size=p.payload)
        for mode in p.modes:
            with topology.broker.folder() as folder, progress.variant(f"fast path {mode}"):
                subjects = [Subject(topic, _PORTS[topic.name]) for topic in _TOPICS]
                with load.broker(subjects, mode=mode, state=f"{folder}/state") as broker:
                    figures += _churned(p, topology, broker, load, mode)
    return figures


def _churned(p: Parameters, topology: Topology, broker: Broker, load: Load, mode: str) -> list[Figure]:
    def held() -> dict[str, float]:
        return dict(broker.node.inquire("held", pid=broker.pid))

    def taken() -> tuple[int, int]:
        """Events that the broker took so far, and what found its own sockets full."""
        status = broker.status()
        classes = status["quality"]["classes"].values()
        received = sum(entry["received"] for entry in status["topics"] if entry["name"] in _PORTS)
        return received, sum(each["overruns"] for each in classes)

    broker.node.inquire("hurry", pid=broker.pid, priority=_BROKER_PRIORITY)
    _play(p, broker, load, p.warm)
    before, began = held(), taken()
    legs = Legs(topology)
    churn, sent, heard = _play(p, broker, load, p.seconds)
    dropped = legs.dropped()
    after, (received, overrun) = held(), (now - then for now, then in zip(taken(), began, strict=True))
    entries = [topic_status(entry) for entry in broker.status()["topics"]]
    open_ones = [entry for entry in entries if not entry.closed]
    name = f"fast path {mode}: "
    grown = {key: after[key] - before[key] for key in before}
    missed, unheard = beyond(sent - received, dropped.first), beyond(received - heard, dropped.last)
    return [
        Figure(f"{name}lost on the way to the broker or by it", missed, "events", Better.LOWER),
        Figure(f"{name}of these, found the broker's socket full", overrun, "events"),
        Figure(f"{name}taken by the broker and not heard", unheard, "events", Better.LOWER),
        Figure(f"{name}dropped by links and receivers", dropped.first + dropped.last, "events"),
        Figure(f"{name}ledger: topics that are not closed", len(open_ones), "topics", Better.LOWER),
        Figure(f"{name}topics left", len(entries) - len(_TOPICS), "topics", Better.LOWER),
        Figure(f"{name}topics made and removed a second", len(churn.removed) / p.seconds, "1/s"),
        median(f"{name}to make one", summarize(churn.made), "ms", Better.LOWER),
        median(f"{name}to remove one", summarize(churn.removed), "ms", Better.LOWER),
        Figure(f"{name}memory left", grown["resident"] / _MIB, "MiB", Better.LOWER),
        Figure(f"{name}descriptors left", grown["descriptors"], "descriptors", Better.LOWER),
        Figure(f"{name}maps left in the kernel", grown["maps"], "B", Better.LOWER),
    ]


def _play(p: Parameters, broker: Broker, load: Load, seconds: float) -> tuple[_Churn, int, int]:
    """Events and churn at once; how many events were sent, and how many heard."""
    churn, stop = _Churn(), threading.Event()

    def work() -> None:
        waiting: list[str] = []
        number, due = 0, time.perf_counter()
        while not stop.is_set():
            waiting.append(f"made/{number}")
            churn.made.append(_timed(broker, "POST", "/v1/topics", {"name": waiting[-1]}))
            if len(waiting) > p.at_once:
                churn.removed.append(_remove(broker, waiting.pop(0)))
            number += 1
            due = max(due + 1 / p.churn, time.perf_counter())
            stop.wait(due - time.perf_counter())
        for name in waiting:
            _remove(broker, name)

    churning = threading.Thread(target=work, name="make and remove topics")
    churning.start()
    try:
        heard = load.play([Flow(topic, p.rate / len(_TOPICS)) for topic in _TOPICS], seconds)
    finally:
        stop.set()
        churning.join()
    outcomes = [each.outcome for each in heard.values()]
    return churn, sum(each.sent for each in outcomes), sum(each.delivered for each in outcomes)


def _remove(broker: Broker, name: str) -> float:
    return _timed(broker, "DELETE", f"/v1/topics/{name.replace('/', '%2F')}")


def _timed(broker: Broker, method: str, path: str, body: object = None) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    broker.ask(method, path, body)
    return (time.perf_counter() - began) * 1e3
