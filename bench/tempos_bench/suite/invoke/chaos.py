"""A whole platform while its parts are killed at random and functions fail in every way.

Workers, invoker, trigger, broker and Controller are killed, as the seed has it, while signals flow through
two workflows and HTTP callers wait for theirs; some of the events have their function raise, hang, exit,
crash, or answer too much. At any moment, whoever is there must have an exact account:

* the trigger: received = published + waiting + dropped, of each endpoint;
* the invoker: accepted = succeeded + failed + waiting + running, of each step, each function, and in all;
* the broker: its ledger.

At every checkpoint signals pause, and then all must be well again within a time, without anybody's help but
for the Controller's own start; each of a row of signals must come to its result, or to the error topic with
the right condition, once; no process may be left that runs functions for nobody. No HTTP caller waits for
longer than the deadline and the start of a trigger.
"""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempos import TemposError
from tempos_bench.calls.living import Away, Living, kill_worker, until
from tempos_bench.calls.traffic import FAILS, RESULTS, Traffic
from tempos_bench.measure.stats import percentile
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Better, Figure
from tempos_bench.runs.run import Run

#: Seconds in which all must be well again, and probes must have come.
_SETTLE = 45.0
#: What is done, and how often beside the others.
_WEIGHTS = {
    "worker": 8, "invoker-local": 3, "trigger-local": 3, "broker": 2, "controller": 2, "look": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parameters:
    """``rest``: seconds between two kills at most; ``checkpoint``: between two checkpoints.

    ``rate``: signals/s of each workflow, of which ``bad`` percent fail; ``probes``: signals of each workflow
    that go well at a checkpoint.
    """

    seconds: float
    rest: float
    checkpoint: float
    rate: float
    bad: float
    probes: int
    seed: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    progress.expect(max(round(p.seconds / p.checkpoint), 1))
    progress.note(f"seed {p.seed}: --set seed={p.seed} draws the same kills again")
    with build() as topology, tempfile.TemporaryDirectory() as folder:
        living = Living(topology.broker, Path(folder))
        chaos = _Chaos(p, progress, living)
        try:
            with progress.keeping(lambda: chaos.checkpoints):
                chaos.play()
        except (TemposError, OSError, TimeoutError) as error:
            chaos.fault(f"{type(error).__name__}: {error}")
        finally:
            chaos.close()
    return chaos.figures()


class _Chaos:
    """``counts`` of what was done; ``faults`` in words, with what had been done just before."""

    def __init__(self, p: Parameters, progress: Run, living: Living) -> None:
        self._p, self._progress, self._living = p, progress, living
        self._rng = random.Random(p.seed)
        self._began = time.monotonic()
        self._story: deque[str] = deque(maxlen=8)
        self._traffic: Traffic | None = None
        #: Until then there is to be no Controller.
        self._alone_until = 0.0
        #: Nanoseconds from strict signals to results before anything is killed, and from then on.
        self._quiet: list[int] = []
        self._loud: list[int] = []
        self.counts: Counter[str] = Counter()
        self.checkpoints = 0
        self.faults: list[str] = []

    def fault(self, text: str) -> None:
        """Something that must not be."""
        told = f"after {time.monotonic() - self._began:.1f} s: {text}"
        self.faults.append(told)
        if len(self.faults) <= 20:
            self._progress.note(f"{told}; before: {' / '.join(self._story)}")

    def play(self) -> None:
        """All of it."""
        p, living = self._p, self._living
        living.start()
        traffic = self._traffic = Traffic(living, p.rate, p.bad / 100, p.seed)
        traffic.subscribe()
        if not until(lambda: not living.lacking(), _SETTLE):
            self.fault(f"not well {_SETTLE:g} s after the start: {living.lacking()}")
        with traffic.flow():
            self._progress("nothing is killed yet")
            self._progress.pause(p.checkpoint / 3)
        until(lambda: not living.lacking(), _SETTLE)
        self._quiet += traffic.latencies
        traffic.latencies.clear()
        end = time.monotonic() + p.seconds
        while (left := end - time.monotonic()) > 0:
            text = (
                f"{self.checkpoints} checkpoints, {self.counts['killed']} killed, {len(self.faults)} faults"
            )
            with self._progress.variant(text):
                with traffic.flow():
                    self._wear(time.monotonic() + min(left, p.checkpoint))
                self._check()
        self._story.append("the end")
        code = living.end()
        if code:
            self.fault(f"the Controller ended with exit code {code}: {living.said[-1][-500:]}")
        if left_over := living.left():
            self.fault(f"left behind the Controller's end: processes {left_over}")
        for name, said in {**living.logs(), "controller": "\n".join(living.said)}.items():
            if "Traceback" in said and "as the event says" not in said[said.index("Traceback") :]:
                at = said.index("Traceback")
                self.fault(f"{name} logged a traceback: {said[at : at + 1500]}")

    def close(self) -> None:
        """End everything, whatever happened."""
        if self._traffic is not None:
            self._traffic.close()
        self._living.close()

    # --- what happens ------------------------------------------------------------------------

    def _wear(self, end: float) -> None:
        while time.monotonic() < end:
            self._controller_again()
            what = self._rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
            self._progress.pause(self._rng.uniform(0, self._p.rest))
            if what == "look":
                self._look()
            elif what == "worker":
                self._kill_worker()
            elif self._living.kill(what):
                self._killed(what)
                if what == "controller":
                    self._alone_until = time.monotonic() + self._rng.choice((0.0, self._p.rest))
        self._alone_until = 0.0
        self._controller_again()

    def _controller_again(self) -> None:
        if not self._living.controlled and time.monotonic() >= self._alone_until:
            self._story.append("a Controller starts")
            self._living.start(wait=False)

    def _kill_worker(self) -> None:
        with suppress(Away, TimeoutError):
            functions = self._living.ask("invoker-local")["functions"]
            pids = [worker["pid"] for each in functions for worker in each["workers"]]
            if pids and kill_worker(
                self._rng.choice(pids), self._rng.choice((signal.SIGKILL, signal.SIGSEGV))
            ):
                self._killed("worker")

    def _killed(self, what: str) -> None:
        self._story.append(f"{what} killed")
        self.counts[what] += 1
        self.counts["killed"] += 1

    # --- what must hold ----------------------------------------------------------------------

    def _look(self) -> None:
        """Every account, whatever goes on; who is not there has none."""
        self.counts["looks"] += 1
        for name, faults in _ACCOUNTS.items():
            with suppress(Away, TimeoutError):
                for fault in faults(self._living):
                    self.fault(f"{name}: {fault}")

    def _check(self) -> None:
        """A checkpoint."""
        self.checkpoints += 1
        traffic = self._traffic
        assert traffic is not None
        self._story.append(f"checkpoint {self.checkpoints}")
        began = time.monotonic()
        if not until(lambda: not self._living.lacking(), _SETTLE):
            self.fault(f"not well again within {_SETTLE:g} s: {self._living.lacking()}")
            return
        self._progress.keep("well again after", time.monotonic() - began)
        self._look()
        self._loud += traffic.latencies
        traffic.latencies.clear()
        self._probe(traffic)
        traffic.latencies.clear()
        if not until(lambda: not self._living.lacking(), _SETTLE):
            self.fault(f"not well within {_SETTLE:g} s of probes: {self._living.lacking()}")
        self._look()
        self._strays()
        for took in traffic.overdue:
            self.fault(f"an HTTP caller waited {took:.1f} s")
        traffic.overdue.clear()

    def _probe(self, traffic: Traffic) -> None:
        """Each of a row of signals comes to its end, and as it should."""
        good: list[tuple[str, int]] = []
        bad: dict[tuple[str, int], str] = {}
        # Once results come the subscribers are there again, too.
        if not until(lambda: self._comes(traffic), _SETTLE):
            self.fault("no result of a signal comes")
            return
        for workflow in RESULTS:
            good += [(workflow, traffic.send(workflow)) for _ in range(self._p.probes)]
            bad |= {(workflow, traffic.send(workflow, do)): condition for do, condition in FAILS.items()}
            good += [(workflow, traffic.send(workflow)) for _ in range(self._p.probes)]

        def missing() -> list[Any]:
            return [each for each in good if not traffic.results[each]] + [
                each for each in bad if each not in traffic.errors
            ]

        if not until(lambda: not missing(), _SETTLE):
            told = [(each, traffic.told.get(each, "")) for each in missing()]
            invoker = self._living.ask("invoker-local")
            trigger = self._living.ask("trigger-local")
            accounts = [invoker["total"], [each["source"] for each in invoker["steps"]], trigger["endpoints"]]
            self.fault(f"probes without an end: {told}; {accounts}")
        for each, condition in bad.items():
            if (came := traffic.errors.get(each, [])) not in ([], [condition]):
                self.fault(f"{each} was to end by {condition}: {came}")
        if doubled := [each for each in good if traffic.results[each] > 1]:
            self.fault(f"results that came twice: {doubled}")

    def _comes(self, traffic: Traffic) -> bool:
        firsts = [(workflow, traffic.send(workflow)) for workflow in RESULTS]
        failing = ("best", traffic.send("best", "raise"))
        return until(lambda: all(traffic.results[each] for each in firsts) and failing in traffic.errors, 1.0)

    def _strays(self) -> None:
        """Nobody runs functions whom no invoker knows."""

        def strays() -> set[int]:
            functions = self._living.ask("invoker-local")["functions"]
            known = {worker["pid"] for each in functions for worker in each["workers"]}
            return self._living.workers() - known

        if not until(lambda: not strays(), 5.0):
            self.fault(f"processes that run functions for nobody: {strays()}")

    # --- figures -----------------------------------------------------------------------------

    def figures(self) -> list[Figure]:
        """All of them."""
        traffic = self._traffic
        sent = sum(traffic.sent.values()) if traffic else 0
        ended = len(traffic.results) + len(traffic.errors) if traffic else 0
        if traffic is not None:
            told = ", ".join(f"{status}: {count}" for status, count in sorted(traffic.answers.items()))
            self._progress.note(f"HTTP callers, answers by status: {told or 'none'}")
        kills = ", ".join(f"{what} {self.counts[what]}" for what in _WEIGHTS if what != "look")
        self._progress.note(f"killed: {kills}")
        settled = self._progress.rounds.get("well again after", [])
        return [
            Figure("faults", len(self.faults), "", Better.LOWER),
            Figure("killed", self.counts["killed"], "processes"),
            Figure("checkpoints", self.checkpoints, ""),
            Figure("looks at every account", self.counts["looks"], ""),
            Figure("well again at a checkpoint, the longest", max(settled, default=0.0), "s", Better.LOWER),
            Figure("signals", sent, "events"),
            Figure("lost with who was killed", sent - ended, "events", Better.NEITHER),
            *_percentiles("while parts are killed", self._loud),
            *_percentiles("before", self._quiet),
        ]


def _percentiles(when: str, latencies: list[int]) -> list[Figure]:
    return [
        Figure(
            f"SQ p{share} {when}",
            percentile(latencies, share) / 1e6 if latencies else 0.0,
            "ms",
            Better.NEITHER,
        )
        for share in (50, 99)
    ]


def _of_trigger(living: Living) -> list[str]:
    return [
        f"{each['name']}: received is not published + waiting + dropped: {each}"
        for each in living.ask("trigger-local")["endpoints"]
        if each["received"] != each["published"] + each["waiting"] + sum(each["dropped"].values())
    ]


def _of_invoker(living: Living) -> list[str]:
    status = living.ask("invoker-local")
    accounts: list[tuple[str, Mapping[str, Any]]] = [("in all", status["total"])]
    accounts += [
        (f"function {each['name']} {each['class']}", each["account"]) for each in status["functions"]
    ]
    accounts += [(f"step {each['workflow']}/{each['name']}", each["account"]) for each in status["steps"]]
    return [
        f"{name}: {account}"
        for name, account in accounts
        if account["drift"]
        or account["accepted"]
        != account["succeeded"] + sum(account["failed"].values()) + account["waiting"] + account["running"]
    ]


def _of_broker(living: Living) -> list[str]:
    ledger = living.ask("broker", "/v1/ledger")
    return [f"{topic['name']}: {topic['problems']}" for topic in ledger["topics"] if topic["problems"]] or (
        [] if ledger["balanced"] else ["the ledger is not balanced"]
    )


_ACCOUNTS: Mapping[str, Callable[[Living], list[str]]] = {
    "the trigger's account": _of_trigger,
    "the invoker's account": _of_invoker,
    "the broker's ledger": _of_broker,
}
