"""What topics cost as they become many: memory, start, joins, orders, reload, pages, strict events beside.

Each number of topics has brokers of its own, which keep state; every topic has one member, always the same
bare socket, where nobody listens. The first life reads file and an empty state, the second the state of the
first. Pages, the live page's whole state among them, are fetched one after the other without a pause while
strict events flow on the slow path, steadily, and in turn nobody asks; the broker's loop has a real-time
priority then, above who fetches them and below those who send and read the clock. Where the fast path can be
had, the topics of another broker have routes in the kernel.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import cycle

from tempos import Framing, Group, Member, PathPolicy, Quality, Topic, wire
from tempos_bench.measure import probe
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.lane import Lane
from tempos_bench.measure.load import Flow, Load, Subject
from tempos_bench.measure.stats import Summary, ratio, ratios, summarize
from tempos_bench.nodes.node import ProgramFailed
from tempos_bench.nodes.topology import Topology, build
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, turned
from tempos_bench.runs.run import Run

_SQ = Topic(id=1, name="SQ", quality=Quality.SQ, framing=Framing.EVENT, policy=PathPolicy.SLOW)
_SQ_PORT, _PORT = 9001, 9002
#: Of the broker's loop under SCHED_FIFO, while strict events flow.
_BROKER_PRIORITY = 10
#: The topic that others join, and one that is made and removed again and again.
_JOINED, _MADE = "plant/line0/press0", "plant/made"
#: All of them.
_ALL = "plant/#"
#: The last is all that the live page is told first.
_PAGES = ("/v1/topics", "/v1/status", "/v1/ledger", "/v1/events?steps=1")
_MIB, _KB = 1 << 20, 1000
#: The largest id of one byte.
_NARROW = 254
_LIMIT = 600.0


@dataclass(frozen=True, slots=True)
class Parameters:
    """``topics``: how many, the first of them what ``many`` and the last of them are held against.

    ``kernel``: so many also on the fast path, where ``turns`` of ``frames`` of the first and of the last are
    timed. ``joins``, ``orders``: measured of each. ``rounds`` of
    ``seconds`` with ``rate`` strict events/s of ``payload`` bytes, beside pages and without.
    """

    topics: tuple[int, ...]
    many: int
    kernel: tuple[int, ...]
    joins: int
    orders: int
    rounds: int
    rate: float
    seconds: float
    payload: int
    turns: int
    frames: int


@dataclass(frozen=True, slots=True)
class _Held:
    starts: tuple[float, ...]
    resident: float
    join: float
    beside: Summary
    lost: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    progress.plan(len(p.topics) + len(p.kernel))
    figures: list[Figure] = []
    with build() as topology, ExitStack() as stack:
        load = Load(stack, topology, (_SQ_PORT,), size=p.payload)
        held: dict[int, _Held] = {}
        for count in p.topics:
            with progress.variant(f"{count} topics"):
                found, held[count] = _user_space(p, topology, load, count, progress)
            figures += found
        figures += _judged(p, held[p.topics[0]], held[p.many], held[p.topics[-1]])
        figures.append(Figure("SQ lost", sum(each.lost for each in held.values()), "events", Better.LOWER))
        base: float | None = None
        for count in p.kernel:
            # What targets are for has the same name whatever the number is.
            name = "many" if count == p.many else f"{count} topics"
            with progress.variant(f"{count} topics on the fast path"):
                found, maps = _kernel(p, count, name, progress)
            figures += found
            if base is not None:
                each = (maps - base) / (count - p.kernel[0])
                figures.append(Figure(f"{name}: kernel's memory for each", each, "B", Better.LOWER))
            base = maps if base is None else base
    return figures


def _judged(p: Parameters, few: _Held, many: _Held, most: _Held) -> Iterator[Figure]:
    allowed = 1.5 * few.resident + _KB * p.many
    yield Figure("many: to start", many.starts[0], "s", Better.LOWER)
    yield Figure("many: to start again", many.starts[1], "s", Better.LOWER)
    yield Figure(
        "many: memory, to 1.5 x that of few and 1 kB each", many.resident / allowed, "x", Better.LOWER
    )
    yield Figure("many: to join, to that of few", ratio(many.join, few.join), "x", Better.LOWER)
    for name, held in (("many", many), ("most", most)):
        beside = f"{name}: SQ p99 beside pages, to alone"
        yield median(beside, held.beside, "x", Better.LOWER, credible=(0.5, math.inf))


def _topics(count: int, address: str, policy: PathPolicy) -> dict[Topic, tuple[Group, ...]]:
    """So many, each with one member; their ids leave out what is reserved."""
    groups = (Group("g", (Member(address, _PORT),)),)
    ids = (number for number in range(2, count + 4) if number != 255)
    names = (f"plant/line{number // 100}/press{number}" for number in range(count))
    return {Topic(id=id_, name=name, policy=policy): groups for id_, name in zip(ids, names, strict=False)}


def _user_space(
    p: Parameters, topology: Topology, load: Load, count: int, progress: Run
) -> tuple[list[Figure], _Held]:
    node, address = topology.broker, topology.subscriber.address
    topics = _topics(count, address, PathPolicy.SLOW)
    figures: list[Figure] = []
    starts: list[float] = []
    with node.folder() as folder:
        for life in ("to start", "to start again"):
            began = time.perf_counter()
            with load.broker(
                [Subject(_SQ, _SQ_PORT)], mode="off", state=f"{folder}/state", beside=topics, limit=_LIMIT
            ) as broker:
                starts.append(time.perf_counter() - began)
                figures.append(Figure(f"{count} topics: {life}", starts[-1], "s", Better.LOWER))
                figures.append(_processor(broker, f"{count} topics: {life}"))
                if len(starts) == 1:
                    resident = float(node.inquire("held", pid=broker.pid)["resident"])
                    continue
                joins = summarize(_joins(topology, _JOINED, p.joins))
                orders = list(_orders(p, broker, count))
                pages, beside, lost = _pages(p, broker, load, count)
                by_filter = list(_filtered(topology, broker)) if count == p.many else []
    figures += [
        Figure(f"{count} topics: memory of the broker", resident / _MIB, "MiB", Better.LOWER),
        median(f"{count} topics: to join", joins, "ms", Better.LOWER),
        *orders,
        *pages,
        *by_filter,
    ]
    return figures, _Held(tuple(starts), resident, joins.median, beside, lost)


def _joins(topology: Topology, wanted: str, count: int) -> list[float]:
    """Milliseconds of each."""
    took = topology.publisher.role(
        "joins", "--broker", topology.broker.address, "--topic", wanted, "--group", "joining",
        "--count", count, cpu=cores()[0],
    ).result(_LIMIT)["seconds"]  # fmt: skip
    return [each * 1e3 for each in took]


def _filtered(topology: Topology, broker: Broker) -> Iterator[Figure]:
    """One member joins all of them by a filter."""
    before = broker.status()["control"]["served"].get("subscribe", 0)
    (took,) = _joins(topology, _ALL, 1)
    asked = broker.status()["control"]["served"]["subscribe"] - before
    yield Figure("many: to join all by a filter", took, "ms", Better.LOWER)
    yield Figure("many: requests to join all by a filter", asked, "requests", Better.LOWER)


def _orders(p: Parameters, broker: Broker, count: int) -> Iterator[Figure]:
    made, removed = [], []
    for _ in range(p.orders):
        made.append(_timed(lambda: broker.ask("POST", "/v1/topics", {"name": _MADE})))
        removed.append(_timed(lambda: broker.ask("DELETE", "/v1/topics/plant%2Fmade")))
    yield median(f"{count} topics: to make one more", summarize(made), "ms", Better.LOWER)
    yield median(f"{count} topics: to remove it", summarize(removed), "ms", Better.LOWER)
    took = _timed(lambda: broker.ask("POST", "/v1/reload"))
    yield Figure(f"{count} topics: a reload that changes nothing", took, "ms", Better.LOWER)


def _pages(p: Parameters, broker: Broker, load: Load, count: int) -> tuple[list[Figure], Summary, int]:
    """The figures, the strict p99 beside pages in terms of that alone, and strict events lost."""
    figures = _read(broker, f"{count} topics")
    p99: dict[str, list[float]] = {"alone": [], "beside pages": []}
    lost = 0
    broker.node.inquire("hurry", pid=broker.pid, priority=_BROKER_PRIORITY)
    for number in range(p.rounds):
        for way in turned(tuple(p99), number):
            with _asked(broker) if way == "beside pages" else nullcontext():
                outcome = load.play([Flow(_SQ, p.rate)], p.seconds)[_SQ.name].outcome
            p99[way].append(outcome.latency.p99)
            lost += outcome.lost
    for way, values in p99.items():
        figures.append(median(f"{count} topics: SQ p99 {way}", summarize(values), "us"))
    if not broker.ask("GET", "/v1/ledger")["balanced"]:
        raise ProgramFailed(f"the ledger of {count} topics does not add up")
    return figures, ratios(p99["beside pages"], p99["alone"]), lost


def _processor(broker: Broker, name: str) -> Figure:
    """What a broker that has just started has taken of it, with the processes that it had."""
    (used,) = broker.node.inquire("used", pids=[broker.pid], families=True)
    return Figure(f"{name}, processor time", used, "s", Better.LOWER)


def _read(broker: Broker, name: str) -> list[Figure]:
    figures = []
    for page in _PAGES:
        took = _timed(lambda page=page: broker.node.inquire("fetch", path=page))  # type: ignore[misc]
        figures.append(Figure(f"{name}: {page}", took, "ms", Better.LOWER))
    return figures


@contextmanager
def _asked(broker: Broker) -> Iterator[None]:
    """Pages are fetched without a pause meanwhile."""
    stop = threading.Event()

    def ask() -> None:
        for page in cycle(_PAGES):
            if stop.is_set():
                return
            broker.node.inquire("fetch", path=page)

    asking = threading.Thread(target=ask, name="fetch pages")
    asking.start()
    try:
        yield
    finally:
        stop.set()
        asking.join()


def _kernel(p: Parameters, count: int, name: str, progress: Run) -> tuple[list[Figure], float]:
    with ExitStack() as stack:
        lane = Lane(stack, cores()[0], p.payload + wire.HEADER_LEN)
        node = lane.topology.broker
        address = lane.topology.subscriber.address
        topics = _topics(count, address, PathPolicy.AUTO)
        node.call(lambda: _greet(address))
        began = time.perf_counter()
        broker = stack.enter_context(Broker(node, topics, mode="native", cpu=cores()[1], limit=_LIMIT))
        took = time.perf_counter() - began
        started = f"{name}: to start with their routes in the kernel"
        processor = _processor(broker, started)
        paths = broker.ask("GET", "/v1/paths")
        fast = sum(each["path"] == "fast" for each in paths)
        maps = float(node.inquire("held", pid=broker.pid)["maps"])
        if fast < count:
            progress.note(f"{count - fast} of {count} topics take the slow path: {paths[-1]['reason']}")
        pages = _read(broker, f"{name} on the fast path")
        times = _program_times(p, lane, broker, [topic.id for topic in topics])
    return [
        *pages,
        Figure(started, took, "s", Better.LOWER),
        processor,
        Figure(f"{name}: not by the fast path", count - fast, "topics", Better.LOWER),
        Figure(f"{name}: memory of the maps in the kernel", maps / _MIB, "MiB", Better.LOWER),
        *(median(f"{name}: program time, {id_}", summarize(found), "ns", Better.LOWER)
          for id_, found in times.items() if found),
    ], maps  # fmt: skip


def _greet(address: str) -> None:
    """Have the kernel learn the MAC of who is there, before a broker asks for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"", (address, _PORT))


def _program_times(p: Parameters, lane: Lane, broker: Broker, ids: Sequence[int]) -> dict[str, list[float]]:
    """Run time per event of the first topic and of the last, in turn; the statistics' own cost is in it."""
    of = {"an id of one byte": [ids[0]], "an id of two bytes": [id_ for id_ in ids[-1:] if id_ > _NARROW]}
    times: dict[str, list[float]] = {name: [] for name in of}
    lane.source.statistics(on=True)
    program = lane.program()
    for number in range(p.turns + 1):
        for name in turned(tuple(of), number):
            for topic in of[name]:
                lane.aim(topic)
                before = probe.figures(broker.node, broker.pid, program)
                lane.source.generate(p.frames)
                after = probe.figures(broker.node, broker.pid, program)
                if number:  # the first turn warms up
                    runs = after.runs - before.runs
                    times[name].append((after.run_time_ns - before.run_time_ns) / runs)
    return times


def _timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3
