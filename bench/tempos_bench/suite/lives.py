"""One broker follows another by random: killed or stopped, edited or not, while events flow.

Each round has lives of its own, drawn from its seed. In every life, and between two of them:

* nothing comes to who has left, be it while a broker was there or while none was;
* topics that the kernel carries from one life into the next lose nothing, whatever happens to the broker;
* once those present are members again each group gets every event, once;
* a start that must fail says why in a sentence and harms nothing; a stop takes 5 s at most and ends with 0;
* every account balances, and at the end nothing of the broker is in the kernel.

What breaks one of these is a fault, told with the round's seed: ``--set seed=SEED --set rounds=1`` is that
round again.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tempos import TemposError
from tempos_bench.measure.legs import Legs
from tempos_bench.measure.second_life import (
    LEASE,
    TOPICS,
    Life,
    Reader,
    World,
    any_life,
    until,
)
from tempos_bench.nodes.disk import SmallDisk
from tempos_bench.nodes.node import ProgramFailed
from tempos_bench.nodes.patience import patience
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Figure
from tempos_bench.runs.run import Run

#: Bytes of the disk that the state is on: room for two, with their counters.
_DISK = 16 << 20
#: Seconds that a stop may take.
_STOP = 5.0
_ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
_GROUPS = ("left", "right")
_FAULTS = ("none", "none", "none", "data", "control", "api", "full disk")


@dataclass(frozen=True, slots=True)
class Parameters:
    """``rounds`` of ``lives`` brokers each, the first by ``seed``; ``members`` at most, ``events`` a look."""

    rounds: int
    lives: int
    seed: int
    members: int
    events: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    counts: Counter[str] = Counter()
    progress.expect(p.rounds)
    for number in progress.repetitions(p.rounds):
        seed = p.seed + number
        bad = counts["rounds with a fault"]
        with (
            progress.keeping(lambda: counts["rounds"]),
            progress.variant(f"round {number + 1} of {p.rounds}, seed {seed}, {bad} had faults"),
        ):
            found = _Round(p, seed)
            faults = found.play()
            counts.update(found.counts)
            progress.keep("rounds", {"seed": seed, "story": found.story, "faults": faults})
            for fault in faults:
                progress.note(f"seed {seed}: {fault}")
            if faults:
                progress.note(f"seed {seed} was: {' / '.join(found.story)}")
            counts["rounds"] += 1
            counts["rounds with a fault"] += bool(faults)
    names = ("brokers", "killed", "stopped", "starts that failed", "events", "lost while nobody carried them")
    return [
        Figure("rounds", counts["rounds"], "rounds"),
        *(Figure(name, counts[name], "") for name in names),
        Figure("rounds with a fault", counts["rounds with a fault"], "rounds"),
        Figure("to who had left", counts["to who had left"], "datagrams"),
        Figure("doubled", counts["doubled"], "events"),
        Figure("lost of what the kernel carried", counts["lost of what the kernel carried"], "events"),
        Figure("lost among members", counts["lost among members"], "events"),
    ]


class _Round:
    """``story``: what happened, in words; ``counts``: towards the figures."""

    def __init__(self, p: Parameters, seed: int) -> None:
        self._p = p
        self._rng = random.Random(seed)
        self._name = f"lives-{os.getpid()}-{seed}"
        self._faults: list[str] = []
        self.story: list[str] = []
        self.counts: Counter[str] = Counter()

    def play(self) -> list[str]:
        """What broke a rule; nothing, if all is well."""
        with build("straight") as topology, tempfile.TemporaryDirectory() as made:
            folder = Path(made) / "disk"
            folder.mkdir()
            # Whoever the broker becomes has its state there, too.
            Path(made).chmod(0o755)
            with SmallDisk(folder, _DISK) as disk:
                disk.seen(folder).chmod(0o777)
                world = World(topology, disk, self._name)
                legs = Legs(topology)
                try:
                    self._play(world)
                except (TemposError, OSError, TimeoutError) as error:
                    self._faults.append(f"{type(error).__name__}: {error}")
                finally:
                    world.close()
                dropped = legs.dropped()
                if self._faults and (dropped.first or dropped.last):
                    self._faults.append(f"dropped by links or receivers: {dropped}")
                self._faults += [f"a traceback: {said}" for said in world.said if "Traceback" in said]
                world.clean()
                left = [each for each in topology.broker.interfaces
                        if topology.broker.inquire("XDP program", name=each)]  # fmt: skip
                if left:
                    self._faults.append(f"left in the kernel behind everything: {left}")
        return self._faults

    def _play(self, world: World) -> None:
        rng = self._rng
        life = any_life(rng)
        world.start(life)
        self._tell(f"starts: {life}")
        for _ in range(rng.randint(2, self._p.members)):
            topics = rng.sample(sorted(life.topics), rng.randint(1, len(life.topics)))
            self._tell(f"joins {topics}")
            world.join(topics, rng.choice(_GROUPS))
        self._look(world, life)
        for _ in range(self._p.lives - 1):
            after = any_life(rng, life)
            self._follow(world, life, after)
            life = after
            for _ in range(rng.randrange(2)):
                topics = rng.sample(sorted(life.topics), rng.randint(1, len(life.topics)))
                self._tell(f"joins {topics}")
                world.join(topics, rng.choice(_GROUPS))
            self._look(world, life)
        world.leave([each for each in world.readers if not each.gone])
        self._balance(world, "at the end")
        self._end(world, rng.choice(_ENDS))

    def _follow(self, world: World, life: Life, after: Life) -> None:
        """From one life into the next, with events all the time."""
        rng = self._rng
        here = [each for each in world.readers if not each.gone]
        early = [each for each in here if rng.random() < 0.15]
        late = [each for each in here if each not in early and rng.random() < 0.25]
        if len(early) + len(late) == len(here):
            early, late = [], []
        if early:
            self._tell(f"{len(early)} leave")
            world.leave(early)
        how = rng.choice(_ENDS)
        carried = {
            name for name in TOPICS if life.carries(name, how) and self._path(world, name, life) == "fast"
        }
        before = dict(world.sent)
        with world.flow():
            self._end(world, how)
            if late:
                self._tell(f"{len(late)} leave while no broker is there")
                world.leave(late)
            self._start(world, life, after)
        self._tell(f"starts: {after}")
        groups = {(each.group, topic) for each in world.readers if not each.gone for topic in each.topics}
        if not late:
            for group, topic in sorted(groups):
                if topic in carried and topic in after.topics and life.goes_on_as(after):
                    self._whole(world, topic, group, before[topic], "lost of what the kernel carried")
        for group, topic in groups:
            got = _of(world, topic, group)
            missing = sum(not got[number] for number in range(before[topic], world.sent[topic]))
            self.counts["lost while nobody carried them"] += missing

    def _start(self, world: World, life: Life, after: Life) -> None:
        """The next broker, often after one that cannot start."""
        fault = self._rng.choice(_FAULTS)
        if fault == "none":
            world.start(after)
            self.counts["brokers"] += 1
            return
        self._tell(f"in the way: {fault}")
        if fault == "full disk":
            world.disk.fill(self._rng.choice((0, 4096, 65536)))
            try:
                world.start(after)
            except ProgramFailed:
                self.counts["starts that failed"] += 1
            world.disk.free()
        else:
            with world.hold(fault if fault != "api" else "api"):
                try:
                    world.start(replace(after, api=life.api) if fault == "api" else after)
                except ProgramFailed:
                    self.counts["starts that failed"] += 1
                else:
                    self._faults.append(f"started although the {fault} port was taken")
        if not world.alive:
            world.start(after)
        self.counts["brokers"] += 1

    def _end(self, world: World, how: signal.Signals) -> None:
        self._tell(how.name)
        code, took = world.end(how)
        if how is signal.SIGKILL:
            self.counts["killed"] += 1
            return
        self.counts["stopped"] += 1
        self._check(code == 0, f"{how.name}: exit code {code}: {world.said[-1][-400:]}")
        self._check(took <= patience(_STOP), f"{how.name}: it took {took:.1f} s to end")

    def _look(self, world: World, life: Life) -> None:
        """Once those present are members, each group gets all of what is sent, and nobody else anything."""
        gone = [each for each in world.readers if each.gone]
        wanted = {topic: {each.group for each in world.present(topic)} for topic in life.topics}

        def settled() -> bool:
            return all(
                _members(world, topic) == {_endpoint(each) for each in world.present(topic)}
                for topic in life.topics
            )

        if not until(settled, 10 * LEASE):
            told = {topic: sorted(_members(world, topic)) for topic in life.topics}
            self._faults.append(f"not all present are members, or others are: {told}, wanted {wanted}")
            return
        # What the account tells may be about to be in force: a run of probes that all come shows that it is.
        if not until(lambda: self._probe(world, wanted, gone)):
            self._faults.append(f"probes do not come, or to those that left: {wanted}")
            return
        before = dict(world.sent)
        world.send(sorted(life.topics), self._p.events)
        self.counts["events"] += self._p.events * len(life.topics)
        for topic, groups in wanted.items():
            for group in sorted(groups):
                self._whole(world, topic, group, before.get(topic, 0), "lost among members")
        stray = sum(each.stray() for each in gone)
        self.counts["to who had left"] += stray
        self._check(not stray, f"{stray} datagrams to members that had left")
        self._balance(world, "among members")

    def _probe(self, world: World, wanted: Mapping[str, Collection[str]], gone: Sequence[Reader]) -> bool:
        """Whether a few events of each topic come to all groups, and to nobody that has left."""
        for each in gone:
            each.stray()
        before = dict(world.sent)
        world.send(sorted(wanted), 2 * self._p.members)
        came = until(lambda: not any(
            _lacking(world, topic, group, range(before.get(topic, 0), world.sent[topic]))
            for topic, groups in wanted.items()
            for group in groups
        ), 0.5)  # fmt: skip
        return came and not sum(each.stray() for each in gone)

    def _balance(self, world: World, when: str) -> None:
        document = world.ask("/v1/ledger")
        faults = {topic["name"]: topic["problems"] for topic in document["topics"] if topic["problems"]}
        self._check(document["balanced"], f"the account {when} does not balance: {faults}")

    def _whole(self, world: World, topic: str, group: str, first: int, what: str) -> None:
        """Every event from ``first`` on came to the group once."""
        wanted = range(first, world.sent[topic])
        until(lambda: not _lacking(world, topic, group, wanted), 3.0)
        got = _of(world, topic, group)
        missing = [number for number in wanted if not got[number]]
        twice = sum(count - 1 for count in got.values() if count > 1)
        self.counts[what] += len(missing)
        self.counts["doubled"] += twice
        self._check(not missing, f"{what}: {len(missing)} of {len(wanted)} of {topic}, group {group}: "
                                 f"{missing[:3]}..{missing[-3:]}")  # fmt: skip
        self._check(not twice, f"{twice} doubled of {topic}, group {group}")

    def _path(self, world: World, topic: str, life: Life) -> str:
        if topic not in life.topics:
            return "none"
        # What is about to become fast has a second for it.
        until(lambda: world.topic(topic)["path"] == "fast", 1.0)
        return str(world.topic(topic)["path"])

    def _tell(self, what: str) -> None:
        self.story.append(what)

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self._faults.append(otherwise)


def _of(world: World, topic: str, group: str) -> Counter[int]:
    """How often each event of a topic came to a group."""
    total: Counter[int] = Counter()
    for reader in world.readers:
        if reader.group == group:
            # It goes on reading meanwhile; a copy is taken in one go.
            for (name, number), count in dict(reader.got).items():
                if name == topic:
                    total[number] += count
    return total


def _lacking(world: World, topic: str, group: str, wanted: Iterable[int]) -> list[int]:
    """Which events of a topic have not come to the group; what has come is gone through once."""
    got = _of(world, topic, group)
    return [number for number in wanted if not got[number]]


def _endpoint(reader: Reader) -> str:
    member = reader.subscriber.member
    return f"{member.ip}:{member.port}"


def _members(world: World, topic: str) -> set[str]:
    """Endpoints that are members of the topic now."""
    groups: Sequence[dict[str, object]] = world.account(topic)["groups"]
    found = set()
    for group in groups:
        members: Sequence[dict[str, object]] = group["members"]  # type: ignore[assignment]
        found |= {f"{each['ip']}:{each['port']}" for each in members if not each["left"]}
    return found
