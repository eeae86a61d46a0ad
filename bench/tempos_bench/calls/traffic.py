"""What flows through a platform while its parts die: signals, callers that wait, and whoever takes results.

Signals are JSON with a number, a time, and what the function is to do with them.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tempos import Subscriber
from tempos_bench.calls.living import DEADLINE, HOME, PORTS, Away, Living
from tempos_bench.nodes.loop import NodeLoop
from tempos_bench.nodes.patience import patience

#: What a function can be told to do that is not well, and what the invoker is to call that.
FAILS = {"raise": "error", "hang": "timeout", "exit": "crash", "crash": "crash", "large": "too_large"}
#: Workflows that signals set off, and the topics of their results.
RESULTS = {"strict": "strict/results", "best": "best/results"}
ERRORS = "errors"
#: Seconds between two HTTP callers; and that one may wait at most: the deadline, and the start of a trigger
#: before it, whose port takes connections a while before it reads from them.
_PAUSE, _LONGEST = 0.2, DEADLINE + 3.0


class Traffic:
    """All of it; ``sent``: signals of each workflow so far, numbered from 0."""

    def __init__(self, living: Living, rate: float, bad: float, seed: int) -> None:
        """``rate``: signals/s of each workflow, of which the share ``bad`` is to fail."""
        self._living, self._rate, self._bad = living, rate, bad
        self._rng = random.Random(seed)
        self.sent: Counter[str] = Counter()
        #: What each signal was told to do that is not well, by workflow and number.
        self.told: dict[tuple[str, int], str] = {}
        self.results: Counter[tuple[str, int]] = Counter()
        #: Conditions that came by the error topic, by workflow and number.
        self.errors: dict[tuple[str, int], list[str]] = {}
        #: Nanoseconds from each strict signal to its result.
        self.latencies: list[int] = []
        #: HTTP answers by status; those that took longer than they may, seconds.
        self.answers: Counter[str] = Counter()
        self.overdue: list[float] = []
        self._sock = living.node.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._loop = NodeLoop(living.node)
        self._loop.__enter__()
        self._tasks: list[asyncio.Task[None]] = []

    def subscribe(self) -> None:
        """Take the results from now on."""
        self._loop.do(self._subscribe())

    def send(self, workflow: str, do: str = "") -> int:
        """One signal; gives its number."""
        number = self.sent[workflow]
        self.sent[workflow] += 1
        if do:
            self.told[workflow, number] = do
        signal = {"workflow": workflow, "n": number, "sent": time.time_ns(), "do": do}
        self._sock.sendto(json.dumps(signal).encode(), (HOME, PORTS[workflow]))
        return number

    @contextmanager
    def flow(self) -> Iterator[None]:
        """Inside, signals come all the time, and HTTP callers ask and wait."""
        over = threading.Event()
        threads = [threading.Thread(target=work, args=(over,)) for work in (self._signal, self._call)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def close(self) -> None:
        """Let go of everything."""
        self._loop.do(self._close())
        self._loop.__exit__()
        self._sock.close()

    # --- threads and tasks -------------------------------------------------------------------

    def _signal(self, over: threading.Event) -> None:
        while not over.wait(self._rng.expovariate(self._rate)):
            for workflow in RESULTS:
                bad = self._rng.random() < self._bad
                self.send(workflow, self._rng.choice(list(FAILS)) if bad else "")

    def _call(self, over: threading.Event) -> None:
        rng = random.Random(self._rng.random())
        while not over.wait(_PAUSE):
            body = {"do": rng.choice(list(FAILS)) if rng.random() < 10 * self._bad else ""}
            began = time.monotonic()
            try:
                status, _ = self._living.request("POST", PORTS["asked"], "/work", json.dumps(body).encode())
                self.answers[str(status)] += 1
            except Away:
                self.answers["nobody there"] += 1
            except TimeoutError:
                self.answers["none"] += 1
            took = time.monotonic() - began
            if took > patience(_LONGEST):
                self.overdue.append(took)

    async def _subscribe(self) -> None:
        for topic, take in (*((topic, self._result) for topic in RESULTS.values()), (ERRORS, self._error)):
            subscriber = Subscriber(HOME, topic)
            await subscriber.__aenter__()
            self._tasks.append(asyncio.get_running_loop().create_task(self._read(subscriber, take)))

    async def _read(self, subscriber: Subscriber, take: Any) -> None:
        try:
            async for each in subscriber:
                take(each)
        finally:
            await subscriber.close()

    def _result(self, each: Any) -> None:
        signal = json.loads(each.body)
        self.results[signal["workflow"], signal["n"]] += 1
        if signal["workflow"] == "strict":
            self.latencies.append(time.time_ns() - signal["sent"])

    def _error(self, each: Any) -> None:
        envelope = each.unpack()
        signal = json.loads(envelope["body"])
        if "workflow" in signal:
            key = (signal["workflow"], signal["n"])
            self.errors.setdefault(key, []).append(envelope["condition"])

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
