"""tempos and what one would use instead, handing the datagrams of existing senders on to collectors.

For each case (copies, or spread; size; source kept; one sender or many) the highest rate is looked for at
which no more than one in a thousand is lost, in a bounded number of attempts; and what a million datagrams
took at that rate. Everybody takes turns, round by round: tempos' slow path and its fast path, native and
generic, each on nodes of its own, and pmacct's nfacctd, nginx, rsyslog and samplicator on the nodes of the
slow path. Real senders are the limit of the fast path, for they do its work; so live frames drive it as well.
Then one of four collectors is gone, beside which the others are to lose nothing; and it is looked at what
becomes of bytes, fragments and sources.

What tempos' slow path sends to one collector in one go crosses a veth link as one buffer (UDP GSO), which an
interface without `tx-udp-segmentation` would have its host cut at some cost.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path as FilePath
from tempfile import TemporaryDirectory

from tempos import ConfigError, Framing, Group, GroupOptions, Member, Path, Topic, Unavailable
from tempos_bench.measure import contents
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.contents import Seen
from tempos_bench.measure.directing import COLLECTORS, FIRST_PORT, SWALLOWED, Case, Load, Site, Stand, cases
from tempos_bench.measure.frame import udp_frame
from tempos_bench.measure.probe import Probe
from tempos_bench.measure.search import carried_rate
from tempos_bench.measure.stats import ratio, summarize
from tempos_bench.nodes.topology import Topology, build, know, mac_of
from tempos_bench.peers.directors import PRIORITY, Director, Shape, Task, directors
from tempos_bench.report.figures import Better, Figure, median, number
from tempos_bench.runs.rounds import cores, in_turn, interleave
from tempos_bench.runs.run import Cell, Run

SLOW, NATIVE, GENERIC, LIVE = "slow path", "native", "generic", "live frames"
#: Tempos' ways, and the mode of the fast path that each has.
MODES = {SLOW: "off", NATIVE: "native", GENERIC: "generic"}
_TIME = "time of both cores"
#: A share of losses this small is told as none.
ALLOWED = 0.001
#: Attempts of a search where nothing is known yet, and of the later ones; when one is close enough.
_STEPS, _AGAIN, _TOLERANCE = 6, 3, 0.08
_FIRST_TOPIC, _FIRST_LISTEN = 300, 2100
#: The largest datagram that the broker takes, for those that come in fragments.
_DATAGRAM = 4096
_FRAGMENTED = 4000
_SIZES = (64, 512, 1400, _FRAGMENTED)
#: Copies that may stand in a veth's ring of 256 at a time.
_ROOM, _BATCH = 192, 64
#: An address of the collectors' network that nobody has.
_NOBODY = "10.0.2.77"
#: That of the node of collectors that read, where contents are looked at.
_COLLECTOR = "10.0.2.2"
_GONE = Case(Shape(COLLECTORS), 1400)


@dataclass(frozen=True, slots=True)
class Parameters:
    """``cases`` as :func:`~tempos_bench.measure.directing.cases` reads them; attempts take ``seconds``.

    ``live_frames`` a round and case; ``gone_rate`` datagrams/s for ``gone_seconds`` beside a collector that
    is gone. ``samplicator``: the path of its binary, for no package has it; empty: without it.
    """

    cases: tuple[str, ...]
    rounds: int
    seconds: float
    live_frames: int
    gone_rate: float
    gone_seconds: float
    samplicator: str


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    try:
        wanted = cases(p.cases)
    except ValueError as error:
        raise ConfigError([f"director: cases: {error}"]) from error
    with ExitStack() as stack:
        field = Field(stack, p, wanted, progress)
        rates: dict[Case, dict[str, list[Load]]] = {}
        for case in wanted:
            if not progress.interrupted:
                rates[case] = field.carry(case)
        beside = {} if progress.interrupted else field.beside()
        seen = {} if progress.interrupted else field.contents()
    return [*_rates(rates, progress), *_beside(beside), *_contents(seen, progress)]


class Field:
    """Everybody on their nodes."""

    def __init__(self, stack: ExitStack, p: Parameters, wanted: list[Case], progress: Run) -> None:
        self._p, self._run = p, progress
        self._folder = FilePath(stack.enter_context(TemporaryDirectory(prefix="tempos-director-")))
        self._started = 0
        found = directors(p.samplicator)
        for reason in filter(None, (each.missing() for each in found)):
            progress.note(reason)
        self._peers = [each for each in found if not each.missing()]
        if not self._peers:
            raise Unavailable("; ".join(filter(None, (each.missing() for each in found))))
        for each in self._peers:
            progress.note(each.says())
        shapes = list(dict.fromkeys(case.shape for case in wanted))
        self._topics = _topics(shapes)
        self._sites: dict[str, Site] = {}
        self._brokers: dict[str, Broker] = {}
        for way, mode in MODES.items():
            progress(f"starting {way}")
            topology = stack.enter_context(build("straight"))
            self._sites[way] = Site(stack, topology)
            self._brokers[way] = stack.enter_context(_serve(topology, self._topics, mode))
        progress(f"starting {LIVE}")
        self._live = Live(stack, self._topics)
        self._begin: dict[tuple[str, Case], float] = {}

    def carry(self, case: Case) -> dict[str, list[Load]]:
        """What each carries, round by round."""
        with ExitStack() as stack:
            stands = {way: self._tempos(way, str(case.shape)) for way in MODES}
            stands |= self._serving(stack, case.shape)
            for who, stand in stands.items():
                stand.site.settle(stand, case, who)
            variants: dict[str, Callable[[], Load]] = {
                who: partial(self._search, who, stand, case) for who, stand in stands.items()
            }
            if case.senders == 1:
                variants[LIVE] = partial(self._live.cross, case, self._p.live_frames)
            told = {f"{case}: {who}": variant for who, variant in variants.items()}
            results = interleave(self._p.rounds, told, self._run)
        return {who: results[f"{case}: {who}"] for who in variants}

    def beside(self) -> dict[str, Load]:
        """What the others get of four collectors of which one is gone."""
        rate, seconds = self._p.gone_rate, self._p.gone_seconds
        with ExitStack() as stack:
            stands = {way: self._tempos(way, "gone") for way in MODES}
            stands |= self._serving(stack, _GONE.shape, gone=True)
            for who, stand in stands.items():
                self._run(f"one of {COLLECTORS} gone: {who}")
                stand.site.load(stand, _GONE, 50.0, 0.2, gone=1)
            variants = {
                who: partial(stand.site.load, stand, _GONE, rate, seconds, gone=1)
                for who, stand in stands.items()
            }
            told = {f"one of {COLLECTORS} gone: {who}": variant for who, variant in variants.items()}
            results = in_turn(told, self._run)
        return {who: results[name] for who, name in zip(variants, told, strict=True) if name in results}

    def contents(self) -> dict[tuple[str, bool], Seen]:
        """What comes of bytes, fragments and sources, with the source kept and without."""
        found: dict[tuple[str, bool], Seen] = {}
        for keep in (False, True):
            shape = Shape(2, keep=keep)
            with ExitStack() as stack:
                stands = {way: (self._tempos(way, f"contents {keep}"), 2) for way in MODES}
                for who, stand in self._serving(stack, shape, contents.FIRST_PORT).items():
                    stands[who] = (stand, 2)
                single = Shape(1, keep=keep)
                others = [peer for peer in self._peers if peer.name not in stands and peer.serves(single)]
                for who, stand in self._serving(stack, single, contents.FIRST_PORT, others).items():
                    stands[who] = (stand, 1)
                for who, (stand, copies) in stands.items():
                    self._run(f"contents{', source kept' if keep else ''}: {who}")
                    found[who, keep] = contents.look(stand, _SIZES, copies)
        return found

    def _search(self, who: str, stand: Stand, case: Case) -> Load:
        begin = self._begin.get((who, case), 0.0)
        best, bound = carried_rate(
            lambda rate: stand.site.load(stand, case, rate, self._p.seconds),
            begin, _AGAIN if begin else _STEPS, _TOLERANCE, ALLOWED,
        )  # fmt: skip
        if best is None:
            # The next search begins anew; no rate is what this one found.
            self._begin.pop((who, case), None)
            return Load(0.0, 0, 0, math.nan, math.nan)
        if not bound:
            self._begin[who, case] = best.rate
        return replace(best, bound=bound)

    def _tempos(self, way: str, topic: str) -> Stand:
        port = next(each.ports[0] for each in self._topics if each.name == topic)
        self._brokers[way].wait_path(topic, Path.SLOW if way == SLOW else Path.FAST)
        return Stand(self._sites[way], self._brokers[way].pid, port)

    def _serving(
        self,
        stack: ExitStack,
        shape: Shape,
        first: int = FIRST_PORT,
        peers: list[Director] | None = None,
        *,
        gone: bool = False,
    ) -> dict[str, Stand]:
        """The peers that serve a shape, started, until ``stack`` ends them; ``gone``: the last collector."""
        site = self._sites[SLOW]
        b, c = site.topology.broker, site.topology.subscriber
        to = SWALLOWED if first == FIRST_PORT else c.address
        ends = [(to, first + number) for number in range(shape.collectors)]
        if gone:
            ends[-1] = (_NOBODY, ends[-1][1])
        stands = {}
        for peer in self._peers if peers is None else peers:
            if not peer.serves(shape):
                continue
            self._started += 1
            listen = (b.address, _FIRST_LISTEN + 1000 + self._started)
            task = Task(shape, listen, ends, self._folder / str(self._started))
            self._run(f"starting {peer.name}")
            program = peer.start(b, task, cores()[1])
            stack.callback(peer.end, program)
            stands[peer.name] = Stand(site, program.pid, listen[1], peer.byte, peer.number)
        return stands


class Live:
    """Nodes of their own on which the kernel itself makes the datagrams, and drops what arrives."""

    def __init__(self, stack: ExitStack, topics: dict[Topic, list[Group]]) -> None:
        self._topology = stack.enter_context(build("straight"))
        core, _ = cores()
        a, b, c = self._topology.publisher, self._topology.broker, self._topology.subscriber
        know(b, b.interfaces[-1], SWALLOWED, mac_of(c.address))
        self._source, self._sink = Probe(a, core), Probe(c, core)
        with suppress(PermissionError):
            os.sched_setscheduler(self._source.pid, os.SCHED_FIFO, os.sched_param(PRIORITY + 10))
        self._sink.attach("count_and_drop", c.interfaces[0])
        self._ports = {topic.name: topic.ports[0] for topic in topics}
        self._broker = stack.enter_context(_serve(self._topology, topics, "native"))

    def cross(self, case: Case, frames: int) -> Load:
        """So many frames at once."""
        a, b, copies = self._topology.publisher, self._topology.broker, case.shape.copies
        self._broker.wait_path(str(case.shape), Path.FAST)
        frame = udp_frame(
            (mac_of(a.address), a.address, 40_000),
            (mac_of(b.address), b.address, self._ports[str(case.shape)]),
            bytes(case.size),
        )
        self._source.prepare(frame, a.interfaces[0])
        before = self._sink.count()
        seconds = self._source.generate(frames, min(_BATCH, _ROOM // copies))
        came, sent = self._sink.count() - before, frames * copies
        return Load(ratio(came, copies * seconds), sent, max(0, sent - came), math.nan, math.nan)


def _topics(shapes: list[Shape]) -> dict[Topic, list[Group]]:
    """A topic for each shape, by its name, for the collector that is gone, and for looks at contents."""
    made: dict[Topic, list[Group]] = {}

    def add(name: str, shape: Shape, ends: list[tuple[str, int]]) -> None:
        members = [Member(*end) for end in ends]
        groups = [Group("pool", tuple(members))] if shape.spread > 1 else [
            Group(f"collector {number}", (member,)) for number, member in enumerate(members)
        ]  # fmt: skip
        number = len(made)
        options = tuple(GroupOptions(group.name, keep=True) for group in groups) if shape.keep else ()
        topic = Topic(
            _FIRST_TOPIC + number,
            name,
            framing=Framing.FOREIGN,
            ports=(_FIRST_LISTEN + number,),
            groups=options,
        )
        made[topic] = groups

    for shape in shapes:
        add(str(shape), shape, [(SWALLOWED, FIRST_PORT + number) for number in range(shape.collectors)])
    others = [(SWALLOWED, FIRST_PORT + number) for number in range(COLLECTORS - 1)]
    add("gone", _GONE.shape, [*others, (_NOBODY, FIRST_PORT)])
    for keep in (False, True):
        ends = [(_COLLECTOR, contents.FIRST_PORT + number) for number in range(2)]
        add(f"contents {keep}", Shape(2, keep=keep), ends)
    return made


def _serve(topology: Topology, topics: dict[Topic, list[Group]], mode: str) -> Broker:
    limits = {"datagram": _DATAGRAM}
    first = f"import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param({PRIORITY}))"
    return Broker(topology.broker, topics, mode=mode, limits=limits, cpu=cores()[1], first=first)


def _rates(rates: dict[Case, dict[str, list[Load]]], progress: Run) -> list[Figure]:
    figures: list[Figure] = []
    # By what is held against the peers: a figure for each case.
    held: dict[str, list[Figure]] = {}
    rows: list[list[Cell]] = []
    for case, by_who in rates.items():
        for who, loads in by_who.items():
            name = f"tempos {who}" if who in (*MODES, LIVE) else who
            rate = summarize([each.rate for each in loads])
            middle, both = (summarize([getattr(each, key) for each in loads]) for key in ("middle", "both"))
            figures.append(median(f"{case}: {name}", rate, "datagrams/s"))
            bound = "≥ " if _is_bound(loads) else ""
            rows.append([str(case), name, bound + number(rate.median), middle.median, both.median])
            if who != LIVE:
                figures += [
                    median(f"{case}, its time: {name}", middle, "s/million"),
                    median(f"{case}, time of both cores: {name}", both, "s/million"),
                ]
        for words, figure in _to_peers(by_who).items():
            figures.append(replace(figure, name=f"{words}, {case}"))
            held.setdefault(words, []).append(figure)
    for words, found in held.items():
        worst = found[_worst(words, [each.value for each in found])]
        figures.append(replace(worst, name=f"{words}, worst case"))
    crossed = [load for by_who in rates.values() for load in by_who.get(LIVE, ())]
    lost = ratio(sum(each.lost for each in crossed), sum(each.sent for each in crossed))
    figures.append(Figure("live frames: lost", lost, "of all", Better.LOWER))
    progress.add_table(
        "rate with at most one in a thousand lost (≥: all that was sent), and processor time of a million",
        ("case", "who", "datagrams/s", "its time, s", "both cores, s"), rows, 2,
    )  # fmt: skip
    return figures


def _is_bound(loads: list[Load]) -> bool:
    """Whether in most of the rounds no more could be sent than was carried."""
    return 2 * sum(each.bound for each in loads) > len(loads)


def _to_peers(by_who: dict[str, list[Load]]) -> dict[str, Figure]:
    """Each of tempos' ways against the best of the peers, round by round; nothing where there is none."""
    peers = [loads for who, loads in by_who.items() if who not in (*MODES, LIVE)]
    if not peers:
        return {}
    best = [max(each.rate for each in row) for row in zip(*peers, strict=True)]
    least = [_least([each.both for each in row]) for row in zip(*peers, strict=True)]
    found = {}
    for who in (*MODES, LIVE):
        loads = by_who.get(who, [])
        if loads:
            rates = summarize([ratio(each.rate, peer) for each, peer in zip(loads, best, strict=True)])
            made = median("", rates, "x", Better.HIGHER)
            found[f"{who} to the best peer"] = replace(made, at_least=_is_bound(loads))
        if loads and who != LIVE:
            times = summarize([ratio(each.both, peer) for each, peer in zip(loads, least, strict=True)])
            found[f"{who}, {_TIME} to the best peer's"] = median("", times, "x", Better.LOWER)
    return found


def _worst(words: str, values: list[float]) -> int:
    """Where the worst of these stands: what could not be had is worse than anything."""
    sign = 1 if _TIME in words else -1
    badness = [math.inf if math.isnan(value) else sign * value for value in values]
    return badness.index(max(badness))


def _least(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return min(known, default=math.nan)


def _beside(beside: dict[str, Load]) -> list[Figure]:
    return [
        Figure(f"one of {COLLECTORS} collectors gone, lost to the others: {who}", load.lost, "datagrams")
        for who, load in beside.items()
    ]


def _contents(seen: dict[tuple[str, bool], Seen], progress: Run) -> list[Figure]:
    rows: list[list[Cell]] = []
    for (who, keep), look in seen.items():
        whole = [f"{count} of {look.sent}" for count in look.whole.values()]
        kept = f"{look.kept} of {sum(look.whole.values())}"
        rows.append([f"{who}{', source kept' if keep else ''}", *whole, kept])
    progress.add_table(
        "came whole, to the byte, and from the sender's address and port",
        ("who", *(f"{size:,} B" for size in _SIZES), "from the sender"), rows, 2 + len(_SIZES),
    )  # fmt: skip
    figures = []
    for way in MODES if seen else ():
        missing = sum(seen[way, keep].missing for keep in (False, True))
        figures += [
            Figure(f"{way}: not whole, to the byte", missing, "datagrams"),
            Figure(f"{way}: source not kept", seen[way, True].not_kept, "datagrams"),
        ]
    return figures
