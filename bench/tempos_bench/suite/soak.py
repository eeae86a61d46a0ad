"""Worn for an hour: one system under random operations, and whether anything of it grows or goes wrong.

Members join, drain, go, vanish and are too slow; an operator takes them out, moves topics and reloads other
ones; bursts and hostile datagrams come; the broker is stopped, killed and started otherwise. What comes when
is drawn from the seed. At every checkpoint events pause, and then

* every account balances, and each of its identities holds to the event;
* what members say they gave to their programs is what their programs got;
* probes come once to every group, and nothing came to who had left;
* no request was answered by an error of the broker's, and nothing it logged is a traceback.

A lease of a member that is there ends only where the machine stood still: members watch their own loop, and
probes tell how long the broker took. Such a member counts anew, so what it got in all is not compared any
more, and the run says how many there were; a lease that ended with neither is a fault.

Between them the broker's memory, descriptors and BPF maps, the size of its state, and the latency of strict
events on the slow path are sampled; at the end each of these is *flat*, *grows*, or is *unclear*. Of latency
a sample is what the probes of a whole minute took, beside what those took that a bare relay sent on
(:mod:`tempos_bench.measure.beside`): so what else the machine does is not what is told. What a broker
remembers of those that left has bounds, which a few thousand operations fill; so the last part of a run is
one life, and memory is judged by what that life takes once it has had so many.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from tempos import TemposError
from tempos_bench.measure.beside import Beside, Took, corrected
from tempos_bench.measure.growth import CONFIDENCE, Growth, Sample, growth
from tempos_bench.measure.legs import Dropped, Legs
from tempos_bench.measure.second_life import HEARTBEAT, LEASE, until
from tempos_bench.measure.soaking import TOPICS, Ground, Settings, Worn, any_settings, other_extras
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Figure
from tempos_bench.runs.run import Run

_GROUPS = ("left", "right")
#: Where the tickets of a group have gone.
_KINDS = ("delivered", "dropped", "unconfirmed", "lost", "unknown")
#: Members at most; those that are too slow are in groups of their own.
_MEMBERS, _SLOW = 8, 2
#: Seconds that a slow program takes for an event.
_PAUSE = 0.02
_ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2)
#: Seconds between two operations at most; in which accounts are to be complete; between two looks at what the
#: broker tells of changes, of which it keeps a hundred.
_REST, _SETTLE, _TOLD = 0.5, 20.0, 2.0
#: Seconds that a member must have stood still for its lease to end, and how much later that may be noticed.
_STALL, _NOTICED = LEASE - 2 * HEARTBEAT, 1.0
#: How often probes are sent again where a lease has ended for a stall meanwhile.
_PROBES = 3
#: What is sampled: its unit, how many of what was sampled make one, what an hour may add and be flat, and
#: whether each life has a level of its own.
_MEASURES = {
    "memory": ("MB", 1e6, 0.05, True),
    "descriptors": ("", 1, 0.05, True),
    "BPF maps": ("MB", 1e6, 0.02, True),
    "state files": ("kB", 1e3, 0.15, False),
    "SQ p50": ("us", 1e3, 0.15, True),
    "SQ p90": ("us", 1e3, 0.25, True),
}
#: Those of them that are percentiles of what probes took, beside those of a bare relay.
_PERCENTILES = {"SQ p50": 50.0, "SQ p90": 90.0}


@dataclass(frozen=True, slots=True)
class Parameters:
    """``checkpoint``: seconds between two, ``sample`` between two samples, ``life`` of a broker on average.

    ``minute``: seconds of probes that make a sample of latency.

    What is sampled in the first ``warm`` seconds of a life is left out. The last ``steady`` seconds are one
    life, in which memory is looked at after ``filled`` operations. ``probes`` events of each topic tell at a
    checkpoint whether all is whole.
    """

    seconds: float
    checkpoint: float
    sample: float
    minute: float
    life: float
    warm: float
    steady: float
    filled: int
    probes: int
    seed: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    progress.expect(round(p.seconds / p.checkpoint))
    progress.note(f"seed {p.seed}: --set seed={p.seed} draws the same operations again")
    with build("straight") as topology, topology.broker.folder() as folder:
        ground = Ground(topology, folder, f"soak-{os.getpid()}")
        soak = _Soak(p, progress, ground, Legs(topology))
        try:
            with progress.keeping(lambda: soak.checkpoints):
                soak.play()
        except (TemposError, OSError, TimeoutError) as error:
            soak.fault(f"{type(error).__name__}: {error}")
        finally:
            ground.close()
        left = [each for each in topology.broker.interfaces
                if topology.broker.inquire("XDP program", name=each)]  # fmt: skip
        if left:
            soak.fault(f"left in the kernel behind everything: {left}")
    soak.samples |= {name: corrected(each) for name, each in soak.beside.items()}
    found = {name: _growth(name, soak.samples) for name in _MEASURES}
    for name, each in soak.beside.items():
        bare = sorted(one.bare / 1e3 for one in each)
        progress.note(
            f"{name}: the bare relay took {bare[0]:.0f} to {bare[-1]:.0f} us, in {len(bare)} minutes"
        )
    progress.add_table(
        f"per hour, with {CONFIDENCE:g} % intervals",
        ("", "level", "grows by %", "from", "to", "verdict"),
        [(f"{name} ({_MEASURES[name][0]})" if _MEASURES[name][0] else name, each.level,
          *(_percent(share) for share in (each.per_hour, each.low, each.high)), each.verdict)
         for name, each in found.items()],
        1,
    )  # fmt: skip
    verdicts = Counter(each.verdict for each in found.values())
    return [
        Figure("operations", sum(soak.counts.values()), ""),
        Figure("brokers", ground.lives, ""),
        Figure("checkpoints", soak.checkpoints, ""),
        Figure("events", sum(ground.sent.values()), "events"),
        Figure("leases that ended for a stall", soak.stalled, ""),
        Figure("faults", len(soak.faults), ""),
        *(Figure(verdict, verdicts[verdict], "measures") for verdict in ("flat", "unclear", "grows")),
    ]


def _growth(name: str, samples: dict[str, list[Sample]]) -> Growth:
    _, scale, tolerance, by_life = _MEASURES[name]
    robust = name in _PERCENTILES
    scaled = [Sample(s.at, s.life if by_life else 0, s.value / scale) for s in samples.get(name, [])]
    return growth(scaled, tolerance, robust=robust)


def _percent(share: float) -> float:
    return share * 100


class _Soak:
    """``counts`` of operations; ``faults`` in words, with what had been done just before."""

    def __init__(self, p: Parameters, progress: Run, ground: Ground, legs: Legs) -> None:
        self._p = p
        self._progress = progress
        self._ground = ground
        self._legs = legs
        self._rng = random.Random(p.seed)
        self._began = time.monotonic()
        self._started = 0.0
        self._sampled = 0.0
        #: What was done in this life; up to which change of it was looked at, and when.
        self._done = 0
        self._change, self._looked = 0, 0.0
        #: Members whose lease has ended because something stood still.
        self.stalled = 0
        self._story: deque[str] = deque(maxlen=12)
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.checkpoints = 0
        self.faults: list[str] = []
        self.samples: dict[str, list[Sample]] = {}
        #: What probes took, by percentile; those of the minute that is not over, and when it began.
        self.beside: dict[str, list[Beside]] = {}
        self._minute, self._minute_began = Took(), 0.0
        #: What comes by random, and how often beside the others.
        self._operations: dict[Callable[[], None], int] = {
            self._join: 6, self._join_slowly: 1, self._drain: 4, self._go: 2, self._vanish: 2,
            self._take_out: 2, self._drain_one: 2, self._move: 2, self._reload: 3, self._burst: 3,
            self._hostile: 3, self._read_all: 2,
        }  # fmt: skip

    def fault(self, text: str) -> None:
        """Something that must not be."""
        told = f"after {time.monotonic() - self._began:.0f} s: {text}"
        self.faults.append(told)
        if len(self.faults) <= 20:
            self._progress.note(f"{told}; before: {' / '.join(self._story)}")

    def play(self) -> None:
        """All of it."""
        p, ground = self._p, self._ground
        self._start(Settings())
        while (left := self._began + p.seconds - time.monotonic()) > 0:
            with self._progress.variant(f"{self.checkpoints} checkpoints, {len(self.faults)} faults"):
                with ground.flow():
                    self._wear(time.monotonic() + min(left, p.checkpoint))
                self._check()
        ground.leave(list(ground.members))
        self._account()
        self._end(signal.SIGINT)
        refused = _counted(self.refused) or "none"
        self._progress.note(f"operations: {_counted(self.counts)}; refused: {refused}")

    def _wear(self, end: float) -> None:
        rng = self._rng
        # What came while nothing was done is no sample.
        self._ground.probes.take()
        while time.monotonic() < end:
            if self._is_due():
                self._another_life()
            operation = rng.choices(list(self._operations), list(self._operations.values()))[0]
            name = operation.__name__.strip("_").replace("_", " ")
            with self._told(name):
                operation()
            self.counts[name] += 1
            self._done += 1
            self._progress.pause(rng.uniform(0, _REST))
            if time.monotonic() - self._looked > _TOLD:
                self._look_at_changes()
            self._sample()

    def _is_due(self) -> bool:
        """Whether another life begins now: by random, and where the last one of the run is to begin."""
        steady = self._began + self._p.seconds - self._p.steady
        if time.monotonic() < steady:
            return self._rng.random() < _REST / 2 / self._p.life
        return self._started < steady

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """A refusal is an answer; an error of the broker's is a fault."""
        self._story.append(name)
        try:
            yield
        except TemposError as error:
            self.refused[name] += 1
            if "the broker answers 5" in str(error):
                self.fault(f"{name}: {error}")

    # --- operations -------------------------------------------------------------------------

    def _topics(self) -> list[str]:
        names = sorted(TOPICS)
        return self._rng.sample(names, self._rng.randint(1, len(names)))

    def _join(self) -> None:
        if len(self._ground.members) < _MEMBERS:
            self._ground.join(self._topics(), self._rng.choice(_GROUPS))
        elif self._rng.random() < 0.5:
            self._drain()

    def _join_slowly(self) -> None:
        slow = [each for each in self._ground.members if each.pause]
        if len(slow) < _SLOW:
            self._ground.join(self._topics()[:1], f"slow {self.counts['join slowly']}", _PAUSE)
        else:
            self._ground.leave(slow[:1])

    def _drain(self) -> None:
        if len(self._ground.members) > 1:
            self._ground.leave([self._rng.choice(self._ground.members)])

    def _go(self) -> None:
        if len(self._ground.members) > 1:
            self._ground.leave([self._rng.choice(self._ground.members)], drain=False)

    def _vanish(self) -> None:
        # In a group of its own, for what is sent to it is lost.
        if not self._ground.vanish(self._rng.choice(sorted(TOPICS)), "vanished"):
            self.refused["vanish"] += 1

    def _take_out(self) -> None:
        member, place = self._some_member()
        if member is not None:
            member.disturbed = True
            self._ground.ask("DELETE", f"{place}?keep_out_s=1")

    def _drain_one(self) -> None:
        member, place = self._some_member()
        if member is not None:
            member.disturbed = True
            self._ground.ask("POST", f"{place}/drain", {"patience_s": 2, "keep_out_s": 1})

    def _some_member(self) -> tuple[Worn | None, str]:
        if not self._ground.members:
            return None, ""
        member = self._rng.choice(self._ground.members)
        topic, (ip, port) = self._rng.choice(list(member.topics)), member.endpoint
        return member, f"/v1/topics/{quote(topic, safe='')}/groups/{quote(member.group)}/members/{ip}:{port}"

    def _move(self) -> None:
        topic, policy = self._rng.choice(sorted(TOPICS)), self._rng.choice(("auto", "slow", "fast"))
        self._ground.ask("POST", f"/v1/topics/{topic}/path", {"policy": policy})

    def _reload(self) -> None:
        self._ground.settings = other_extras(self._rng, self._ground.settings)
        self._ground.write()
        self._ground.ask("POST", "/v1/reload")

    def _burst(self) -> None:
        self._ground.send([self._rng.choice(sorted(TOPICS))], 200)

    def _hostile(self) -> None:
        self._ground.hostile(self._rng, 100)

    def _read_all(self) -> None:
        self._ground.ask("GET", self._rng.choice(("/v1/status", "/v1/ledger", "/v1/topics", "/v1/routes")))

    def _another_life(self) -> None:
        how = self._rng.choice(_ENDS)
        self._story.append(how.name)
        self.counts[how.name] += 1
        self._look_at_changes()
        self._end(how)
        self._progress.pause(self._rng.choice((0.0, 0.0, LEASE * 1.5)))
        self._start(any_settings(self._rng, self._ground.settings))

    def _start(self, settings: Settings) -> None:
        self._ground.settings = settings
        self._story.append(f"starts: mode {settings.mode}, worker {settings.worker_sq}, {settings.on_stop}")
        self._ground.start()
        self._ground.probes.take()
        self._started = self._minute_began = time.monotonic()
        self._minute = Took()
        self._done, self._change = 0, 0

    def _end(self, how: signal.Signals) -> None:
        code = self._ground.end(how)
        if how is not signal.SIGKILL and code:
            self.fault(f"{how.name}: exit code {code}: {self._ground.said[-1][-400:]}")
        if "Traceback" in self._ground.said[-1]:
            self.fault(f"a traceback: {self._ground.said[-1][-2000:]}")

    # --- what is looked at ------------------------------------------------------------------

    def _sample(self) -> None:
        now = time.monotonic()
        if now - self._sampled < self._p.sample:
            return
        self._sampled = now
        took = self._ground.probes.take()
        if now - self._started < self._p.warm:
            self._minute_began = now
            return
        self._minute.add(took)
        if now - self._minute_began >= self._p.minute:
            self._end_minute(now)
        held = self._ground.held()
        values: dict[str, float] = {
            "descriptors": held["descriptors"], "BPF maps": held["maps"],
            "state files": self._ground.stored(),
        }  # fmt: skip
        if self._done >= self._p.filled:
            values["memory"] = held["private"]
        for name, value in values.items():
            sample = Sample(now - self._began, self._ground.lives, value)
            self.samples.setdefault(name, []).append(sample)
            self._progress.keep(name, sample)

    def _end_minute(self, now: float) -> None:
        """What its probes took is a sample."""
        middle = (self._minute_began + now) / 2 - self._began
        for name, share in _PERCENTILES.items():
            if (beside := self._minute.beside(share, middle, self._ground.lives)) is not None:
                self.beside.setdefault(name, []).append(beside)
                self._progress.keep(name, beside)
        self._minute, self._minute_began = Took(), now

    def _look_at_changes(self) -> None:
        """Whose lease has ended since the last look, and whether anything stood still that explains it."""
        self._looked = time.monotonic()
        told = self._ground.ask("GET", f"/v1/changes?since={self._change}")
        self._change = told["last"]
        present = {f"{ip}:{port}": each for each in self._ground.members for ip, port in [each.endpoint]}
        for change in told["changes"]:
            at = datetime.fromisoformat(change["at"]).timestamp()
            for member in change["members"] if change["kind"] == "lease ended" else ():
                if (known := present.get(member)) is not None:
                    self._lease_ended(known, member, at)

    def _lease_ended(self, member: Worn, name: str, at: float) -> None:
        early, late = at - LEASE - _NOTICED, at + _NOTICED
        ground = self._ground
        members, broker = (
            max((took for end, took in list(noted) if end >= early and end - took <= late), default=0.0)
            for noted in (ground.stalls, ground.probes.delays)
        )
        what = f"{name} ended: members stood still for {members:.2f} s, the broker for {broker:.2f} s"
        if members + broker < _STALL:
            self.fault(f"the lease of {what}")
            return
        self.stalled += 1
        member.disturbed = True
        self._progress.note(f"the lease of {what}: it counts anew")

    def _check(self) -> None:
        """A checkpoint."""
        self.checkpoints += 1
        self._story.append(f"checkpoint {self.checkpoints}")
        wanted = {topic: self._present(topic) for topic in TOPICS}
        if not until(lambda: all(self._in_force(topic, wanted[topic]) for topic in wanted), _SETTLE):
            told = {topic: sorted(self._listed(topic)) for topic in wanted}
            self.fault(f"not all present are members, or others are: {told}, wanted {wanted}")
            return
        self._account()
        self._agree()
        for _ in range(_PROBES):
            before, amiss = self.stalled, self._probe()
            if not amiss:
                break
            self._look_at_changes()
            if self.stalled == before:
                break
        for each in amiss:
            self.fault(each)

    def _present(self, topic: str) -> set[tuple[str, int]]:
        return {each.endpoint for each in self._ground.members if topic in each.topics}

    def _listed(self, topic: str) -> set[tuple[str, int]]:
        """Members by the route in force: the account may tell of one that is about to be."""
        return {
            (member.split(":")[0], int(member.split(":")[1]))
            for group in self._ground.ask("GET", f"/v1/topics/{topic}/route")["groups"]
            for member in group["members"]
        }

    def _in_force(self, topic: str, wanted: set[tuple[str, int]]) -> bool:
        return self._listed(topic) == wanted

    def _account(self) -> None:
        """Every identity of every account; what members have not told yet they tell within a heartbeat."""

        def told() -> bool:
            return all(
                not group["unconfirmed"]
                for topic in self._ground.ask("GET", "/v1/ledger")["topics"]
                for group in topic["groups"]
            )

        until(told, _SETTLE)
        for topic in self._ground.ask("GET", "/v1/ledger")["topics"]:
            name = topic["name"]
            if topic["problems"]:
                self.fault(f"the account of {name} does not balance: {topic['problems']}")
            came = topic["fast"] + topic["slow"] + sum(topic["refused"].values())
            if topic["received"] != came:
                self.fault(f"{name}: received {topic['received']}, but {came} went somewhere")
            for group in topic["groups"]:
                went = sum(group[kind] for kind in _KINDS)
                if group["tickets"] != went:
                    self.fault(f"{name}, group {group['name']}: {group['tickets']} tickets, {went} went")

    def _agree(self) -> None:
        """What members that nobody disturbed have told is what their programs got."""
        here = [each for each in self._ground.members if not (each.disturbed or each.pause)]

        def differences() -> list[str]:
            rows = {
                (topic["name"], group["name"], member["ip"], member["port"]): member["delivered"]
                for topic in self._ground.ask("GET", "/v1/ledger")["topics"]
                for group in topic["groups"]
                for member in group["members"]
                if not member["left"]
            }
            return [
                f"{topic}: {each.counts[topic]} came to the program of {each.endpoint}, {told} are told"
                for each in here
                for topic in each.topics
                if (told := rows.get((topic, each.group, *each.endpoint), 0)) != each.counts[topic]
            ]

        if not until(lambda: not differences(), _SETTLE):
            self._look_at_changes()
            here = [each for each in here if not each.disturbed]
            for each in differences():
                self.fault(each)

    def _told_of(self, topic: str, group: str) -> str:
        """What broker and members say of a group, for whoever looks for a fault."""
        found = self._ground.ask("GET", f"/v1/topics/{topic}")
        account = [each for each in found["groups"] if each["name"] == group]
        members = {each.endpoint: (each.subscriber.stats, each.disturbed) for each in self._ground.members
                   if each.group == group and topic in each.topics}  # fmt: skip
        return f"{topic} by the {found['path']} path ({found['reason']}), {account}, programs: {members}"

    def _probe(self) -> list[str]:
        """Events come once to each group that has members, and to nobody who has left; what is amiss."""
        ground, legs = self._ground, self._legs
        before = legs.dropped()
        first = ground.look_anew()
        ground.stray()
        ground.send(sorted(TOPICS), self._p.probes)
        wanted = {(topic, each.group) for each in ground.members if not each.pause for topic in each.topics}

        def missing() -> dict[tuple[str, str], int]:
            return {
                (topic, group): lacking
                for topic, group in wanted
                if (lacking := sum(
                    not ground.seen(topic, group)[number]
                    for number in range(first.get(topic, 0), ground.sent[topic])
                ))
            }  # fmt: skip

        until(lambda: not missing(), _SETTLE / 2)
        lost, dropped, amiss = missing(), legs.dropped(), []
        if lost and _same(before, dropped):
            amiss.append(f"probes did not come: {lost}; {'; '.join(self._told_of(*place) for place in lost)}")
        counts = {place: ground.seen(*place).values() for place in wanted}
        twice = {place: more for place, each in counts.items()
                 if (more := sum(count - 1 for count in each if count > 1))}  # fmt: skip
        if twice:
            amiss.append(f"probes came twice: {twice}")
        if stray := ground.stray():
            amiss.append(f"{stray} datagrams came to who had left")
        return amiss


def _same(before: Dropped, after: Dropped) -> bool:
    """Whether links and receivers dropped nothing in between."""
    return (before.first, before.last) == (after.first, after.last)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
