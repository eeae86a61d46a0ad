"""The network changes under traffic: addresses, hosts, links, names; everything recovers by itself.

What changes when is drawn from the seed (:mod:`tempos_bench.measure.roaming`). After each change, from the
moment on in which the network is whole again,

* events of every publisher come to every group and member within two heartbeats: nobody is restarted;
* what a topic's status says of its path is what its events do, unless the broker says that the network has
  just changed and its programs have not followed yet.

At checkpoints publishers rest, and then every account balances, no event came twice, members gave to their
programs at least what the ledgers say, and what is missing is told: each event that was sent was received by
a broker and ticketed, or is told as lost before it; each ticket was delivered, or is told as lost.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempos import TemposError
from tempos_bench.measure.roaming import GROUPS, LIMIT, TOPICS, Ground, recovers
from tempos_bench.measure.second_life import until
from tempos_bench.measure.stats import percentile
from tempos_bench.nodes.node import local
from tempos_bench.nodes.patience import patience
from tempos_bench.report.figures import Figure
from tempos_bench.runs.run import Run

_ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
#: Seconds of an outage, at least and at most.
_OUTAGE = (0.1, 3.0)
#: Seconds that the fast path may take to follow a change.
_FOLLOWS = 3.0
#: Where the tickets of a group may have gone, but for what was delivered.
_ELSEWHERE = ("dropped", "unconfirmed", "lost", "unknown")


@dataclass(frozen=True, slots=True)
class Parameters:
    """``changes`` in all, a checkpoint after every ``checkpoint`` of them; ``mode`` of the fast path.

    ``heartbeat``, ``lease`` and ``period`` (between two events of a publisher) are in seconds.
    """

    changes: int
    checkpoint: int
    heartbeat: float
    lease: float
    period: float
    mode: str
    seed: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    progress.expect(p.changes)
    progress.note(f"seed {p.seed}: --set seed={p.seed} draws the same changes again")
    with local().folder() as made, Ground(Path(made), p.mode, p.heartbeat, p.lease) as ground:
        roaming = _Roaming(p, progress, ground)
        with progress.keeping(lambda: roaming.changes):
            try:
                roaming.play()
            except (TemposError, OSError, TimeoutError) as error:
                roaming.fault(f"{type(error).__name__}: {error}")
    seconds = roaming.seconds or [float("nan")]
    progress.add_table(
        "recovery by change, in seconds",
        ("", "times", "median", "longest"),
        [(what, len(each), percentile(each, 50), max(each)) for what, each in sorted(roaming.by.items())],
        1,
    )
    return [
        Figure("changes", roaming.changes, ""),
        Figure("events", sum(roaming.sent.values()), "events"),
        Figure("recovery, median", percentile(seconds, 50), "s"),
        Figure("recovery, longest", max(seconds), "s"),
        Figure("later than two heartbeats", roaming.late, "changes"),
        Figure("missing", roaming.missing, "events"),
        Figure("missing and not told", roaming.untold, "events"),
        Figure("doubled", roaming.doubled, "events"),
        Figure("faults", len(roaming.faults), ""),
    ]


class _Roaming:
    """``faults`` in words; ``seconds`` that each recovery took."""

    def __init__(self, p: Parameters, progress: Run, ground: Ground) -> None:
        self._p = p
        self._progress = progress
        self._ground = ground
        self._rng = random.Random(p.seed)
        self._story: list[str] = []
        self.changes = self.late = self.missing = self.untold = self.doubled = 0
        self.faults: list[str] = []
        self.seconds: list[float] = []
        self.by: dict[str, list[float]] = {}
        self.sent: Counter[str] = Counter()
        #: Each makes a change, tells it, and returns when the network is whole again.
        self._kinds: dict[Callable[[], str], int] = {
            self._subscribers_move: 4, self._publishers_move: 2, self._fails_over: 3, self._link: 5,
            self._other_interface: 3, self._gone_for_a_while: 3, self._other_name: 3, self._renamed: 2,
            self._mac: 2, self._replaced: 2, self._restarted: 3,
        }  # fmt: skip

    def fault(self, text: str) -> None:
        """Something that must not be."""
        told = f"change {self.changes}: {text}"
        self.faults.append(told)
        if len(self.faults) <= 20:
            self._progress.note(f"{told}; before: {' / '.join(self._story[-6:])}")

    def play(self) -> None:
        """All of it."""
        p, ground = self._p, self._ground
        for number in range(len(ground.hosts)):
            ground.start(number)
        ground.join(p.period)
        self._recover("began", LIMIT)
        while self.changes < p.changes and not self._progress.interrupted:
            with self._progress.variant(f"{self.changes} changes, {len(self.faults)} faults"):
                self._change()
            if self.changes % p.checkpoint == 0 or self.changes == p.changes:
                self._check()
        for number in range(len(ground.hosts)):
            self._end(number, signal.SIGINT)

    def _change(self) -> None:
        kind = self._rng.choices(list(self._kinds), list(self._kinds.values()))[0]
        name = kind.__name__.strip("_").replace("_", " ")
        self.changes += 1
        said = kind()
        self._story.append(said)
        self._progress.keep("changes", {"kind": name, "told": said})
        seconds = self._recover(said, patience(2 * self._p.heartbeat))
        self.by.setdefault(name, []).append(seconds)
        self.seconds.append(seconds)
        self._progress.keep("recovery", seconds)
        self._agrees()
        self._progress.pause(self._rng.uniform(0, self._p.heartbeat))

    def _recover(self, said: str, limit: float) -> float:
        """Seconds until all events come again; what does not within the limit has until it does."""
        since = time.monotonic_ns()
        seconds, missing = recovers(self._ground, since, limit)
        if missing:
            self.late += 1
            whole, still = recovers(self._ground, since, LIMIT)
            self.fault(f"{said}: after {seconds:.1f} s did not come again: {_some(missing)}; "
                       + (f"and after {whole:.0f} s: {_some(still)}" if still else f"it took {whole:.1f} s")
                       + f"; {self._where()}")  # fmt: skip
            return whole
        return seconds

    def _where(self) -> str:
        """Who is where, for whoever looks for a fault."""
        told = self._ground.told()
        members = {name: each["members"] for name, each in told.items()}
        topics = {topic: self._topic(topic)["path"] for topic in TOPICS}
        return f"host {self._ground.active + 1}, {self._ground.service}, members {members}, paths {topics}"

    def _topic(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ground.ask(self._ground.active, f"/v1/topics/{name}")
        return found

    def _agrees(self) -> None:
        """What is said to be fast is fast, once the program has had its moment to hear of the change."""
        if not until(lambda: not self._following(), LIMIT):
            self.fault(f"programs do not follow the network within {LIMIT:.0f} s: {self._fastpath()}")
        for topic in TOPICS:
            said: list[str] = []
            if not until(lambda topic=topic, said=said: self._keeps_its_word(topic, said), _FOLLOWS):  # type: ignore[misc]
                self.fault(f"{topic} {said[-1]}")

    def _fastpath(self) -> dict[str, Any]:
        found: dict[str, Any] = self._ground.ask(self._ground.active, "/v1/status")["paths"]["fast"]
        return found

    def _following(self) -> bool:
        return bool(self._fastpath()["following"])

    def _keeps_its_word(self, topic: str, said: list[str]) -> bool:
        if self._following():
            return True
        before = self._topic(topic)
        if before["path"] != "fast" or "takes the slow path" in before["reason"]:
            return True
        wanted = before["received"] + 20
        until(lambda: bool(self._topic(topic)["received"] >= wanted), LIMIT)
        after = self._topic(topic)
        slow, fast = after["slow"] - before["slow"], after["fast"] - before["fast"]
        fastpath = self._fastpath()
        said.append(f"is said to be fast, and {slow} of {slow + fast} events were not: {after['reason']}, "
                    f"passed {after['passed']} and before a topic was read {fastpath['passed']}; "
                    f"{fastpath['reason']}")  # fmt: skip
        return bool(slow <= fast or after["path"] != "fast" or fastpath["following"])

    # --- changes ----------------------------------------------------------------------------

    def _subscribers_move(self) -> str:
        return self._ground.move_clients(self._rng, 1)

    def _publishers_move(self) -> str:
        return self._ground.move_clients(self._rng, 0)

    def _fails_over(self) -> str:
        return self._ground.fail_over()

    def _other_interface(self) -> str:
        return self._ground.other_interface(self._rng)

    def _gone_for_a_while(self) -> str:
        said = self._ground.take_away()
        self._out()
        self._ground.give_back()
        return said

    def _other_name(self) -> str:
        return self._ground.rename_service()

    def _link(self) -> str:
        end = self._rng.choice(self._ground.links())
        said = self._ground.link(end, "down")
        self._out()
        self._ground.link(end, "up")
        return f"{said} for a while"

    def _renamed(self) -> str:
        return self._ground.rename(self._rng)

    def _mac(self) -> str:
        return self._ground.change_mac(self._rng)

    def _replaced(self) -> str:
        return self._ground.replace(self._rng)

    def _restarted(self) -> str:
        how, number = self._rng.choice(_ENDS), self._rng.randrange(len(self._ground.hosts))
        self._end(number, how)
        self._out()
        self._ground.start(number)
        return f"the broker of host {number + 1} ended by {how.name} and started again"

    def _out(self) -> None:
        self._progress.pause(self._rng.uniform(*_OUTAGE))

    def _end(self, number: int, how: signal.Signals) -> None:
        code = self._ground.end(number, how)
        said = self._ground.hosts[number].said
        if how is not signal.SIGKILL and code:
            self.fault(f"{how.name}: exit code {code}: {said[-400:]}")
        if "Traceback" in said:
            self.fault(f"a traceback: {said[-2000:]}")

    # --- accounts ---------------------------------------------------------------------------

    def _check(self) -> None:
        with self._ground.rest() as publishers:
            self.sent = Counter()
            for each in publishers:
                self.sent.update(each["sent"])
            told = self._settled()
            accounts = [self._ground.ask(number, "/v1/ledger") for number in range(len(self._ground.hosts))]
        self.doubled = sum(each["doubled"] for each in told.values())
        if self.doubled:
            self.fault(
                f"{self.doubled} events came twice, some of them: {[e['some'] for e in told.values()]}"
            )
        for number, account in enumerate(accounts):
            if not account["balanced"]:
                problems = {topic["name"]: topic["problems"] for topic in account["topics"]}
                self.fault(f"the account of host {number + 1} does not balance: {problems}")
        self.missing = self.untold = 0
        for topic in TOPICS:
            self._account(topic, sum(each["got"].get(topic, 0) for each in told.values()), accounts)

    def _settled(self) -> dict[str, Any]:
        """What groups got, once all is told: by members what came, by publishers what they sent."""

        def quiet() -> bool:
            topics = self._ground.ask(self._ground.active, "/v1/ledger")["topics"]
            return all(
                topic["lost_before"]["sent"] == self.sent[topic["name"]] for topic in topics
            ) and not any(group["unconfirmed"] for topic in topics for group in topic["groups"])

        until(quiet, 4 * self._p.heartbeat)
        return self._ground.told()

    def _account(self, topic: str, got: int, accounts: list[Any]) -> None:
        """Over both brokers and all groups: of those that ended a ledger has the sum."""
        rows = [each for account in accounts for each in account["topics"] if each["name"] == topic]
        groups = [each for row in rows for each in row["groups"]]
        sent, told = self.sent[topic], max(row["lost_before"]["sent"] for row in rows)
        received, tickets, delivered = (
            sum(row["received"] for row in rows),
            *(sum(each[key] for each in groups) for key in ("tickets", "delivered")),
        )
        elsewhere = sum(each[key] for each in groups for key in _ELSEWHERE)
        missing = len(GROUPS) * sent - got
        self.missing += missing
        # What was received and not ticketed is refused, under a reason; of the rest each is told by somebody.
        untold = max(0, delivered - got, tickets - elsewhere - got, abs(sent - told))
        self.untold += untold
        facts = {"topic": topic, "sent": sent, "told": told, "received": received, "tickets": tickets,
                 "got": got, "delivered": delivered, "elsewhere": elsewhere, "missing": missing,
                 "refused": [row["refused"] for row in rows]}  # fmt: skip
        self._progress.keep("accounts", facts)
        if untold:
            self.fault(f"{untold} events are missing and not told: {facts}")


def _some(missing: list[str]) -> str:
    more = len(missing) - 4
    return ", ".join(missing[:4]) + (f" and {more} more" if more > 0 else "")
