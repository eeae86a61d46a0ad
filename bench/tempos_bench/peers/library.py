"""One end of a measurement through a client library: `python -m tempos_bench.peers.library`.

Prints `ready` once it is connected, then answers commands as :mod:`.raw` does, one JSON line each:

| --do      | command                                                  | answer                      |
|-----------|----------------------------------------------------------|-----------------------------|
| publish   | {"size", "run", "seconds", "rate", "full", "begin_ns"};  | what was sent               |
|           | rate 0: as fast as can be                                |                             |
| subscribe | {"size", "run", "idle", "room"}                          | {"begun": true}; after the  |
|           |                                                          | next line, what came        |

Every library publishes the same bodies from the same loop, and hands what arrives to the same recorder;
those made for asyncio run under uvloop where that is installed. What differs stands in :mod:`.clients`.
With `--events` bodies are events for the function of :mod:`tempos_bench.calls.count`; a subscriber that has
`--calls` calls it with each.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
import threading
import time
from array import array
from collections.abc import Coroutine, Iterator
from time import monotonic_ns, time_ns
from typing import Any, TextIO

from tempos_bench.calls import event as calls
from tempos_bench.calls.count import count
from tempos_bench.compiled import traffic
from tempos_bench.measure import samples
from tempos_bench.peers import http
from tempos_bench.peers.clients import CLIENTS, AsyncClient, BlockingClient, Record, Where
from tempos_bench.peers.clock import LoopTimer, sharp_timers, sleep_until
from tempos_bench.peers.raw import planned as planned
from tempos_bench.peers.talk import MARKED, Form, Mark

#: Events published without a pause until the library may do what it has to (see `turn` of the clients).
BLOCK = 256
_CLIENTS = {**CLIENTS, **http.CLIENTS}
_NS = 1_000_000_000
_LOOK_EVERY = 0.01
_MOST_NS = 2**32 - 1


class Recorder:
    """Takes what arrives; the same two operations for every library, looked at only when all is over.

    What it keeps are no objects for Python's garbage collector to go through again and again: those of
    the libraries alone shall count.
    """

    def __init__(self, form: Form = MARKED) -> None:
        self._form = form
        self._kept = bytearray(), array("q")

    def begin(self) -> None:
        """Forget what came so far."""
        # At once for both: a library may be recording an event of an earlier run just now.
        self._kept = bytearray(), array("q")

    def record(self, body: bytes) -> None:
        """One event has reached the application."""
        bodies, times = self._kept
        bodies.extend(body)
        times.append(time_ns())

    @property
    def count(self) -> int:
        """Events so far; only grows during a run."""
        return len(self._kept[1])

    def account(self, run: int, size: int, room: int) -> dict[str, Any]:
        """What came of ``run``, as the answer of the program."""
        bodies, times = self._kept
        # Bodies of another length shift all that follow: none of it can be told apart any more.
        whole = len(bodies) == size * len(times)
        unpack_from = self._form.unpack_from
        marks = (Mark._make(unpack_from(bodies, at)) for at in range(0, len(bodies), size))
        pairs = zip(marks, times, strict=True) if whole else ()
        ours = [(mark, now) for mark, now in pairs if mark.run == run]
        received = len({mark.sequence for mark, _ in ours})
        latency = array("I", (min(max(now - mark.sent_ns, 0), _MOST_NS) for mark, now in ours[:room]))
        return {
            "received": received,
            "repeated": len(ours) - received,
            "damaged": 0 if whole else len(times),
            "stale": len(times) - len(ours),
            "first_ns": ours[0][1] if ours else 0,
            "last_ns": ours[-1][1] if ours else 0,
            "by_member": [received],
            "latency": samples.pack(latency),
        }


def taker(recorder: Recorder, calls_function: bool) -> Record:
    """What is done with an event's body: with ``calls_function`` the function first."""
    record = recorder.record
    if not calls_function:
        return record

    def call(body: bytes) -> bytes:
        output = count(body)
        record(body)
        return output

    return call


def serve(recorder: Recorder, told: TextIO = sys.stdin, answers: TextIO = sys.stdout) -> None:
    """Answer the commands of a subscriber until its input ends; runs beside the library."""
    for line in told:
        command = json.loads(line)
        recorder.begin()
        print(json.dumps({"begun": True}), file=answers, flush=True)
        told.readline()
        count, since = recorder.count, time.monotonic()
        while time.monotonic() - since < command["idle"]:
            time.sleep(_LOOK_EVERY)
            if recorder.count != count:
                count, since = recorder.count, time.monotonic()
        account = recorder.account(command["run"], command["size"], command["room"])
        print(json.dumps(account), file=answers, flush=True)


class Plan:
    """A command to publish, and the bodies that it asks for."""

    def __init__(self, command: dict[str, Any], form: Form = MARKED) -> None:
        self.rate: float = command["rate"]
        self.seconds: float = command["seconds"]
        self._run: int = command["run"]
        self._pack, self._filler = form.pack, form.filler(command["size"])
        # The schedule is kept by the clock that nobody sets, and told by the one that others have.
        self._wall_shift_ns = time_ns() - monotonic_ns()
        begin_ns: int = command["begin_ns"]
        self.begin_ns = begin_ns - self._wall_shift_ns if begin_ns else 0
        self.count = round(self.rate * self.seconds)
        #: Events that have to be due before one of them leaves.
        self._together = min(BLOCK, self.count) if command["full"] else 1
        self.sent = 0
        self.began_ns = self.latest_ns = 0

    def begin(self) -> None:
        self.began_ns = self.begin_ns or monotonic_ns()

    def next_block(self) -> Iterator[bytes]:
        """As many as are published without a pause; nothing when the time is over."""
        now = monotonic_ns()
        if now - self.began_ns >= self.seconds * _NS:
            return
        pack, run, rest = self._pack, self._run, self._filler
        sent_ns = now + self._wall_shift_ns
        first, self.sent = self.sent, self.sent + BLOCK
        for sequence in range(first, first + BLOCK):
            yield pack(sent_ns, sequence, run) + rest

    def next_due_ns(self) -> int:
        last = min(self.sent + self._together, self.count) - 1
        return self._due_ns(last)

    def _due_ns(self, sequence: int) -> int:
        return self.began_ns + round(sequence / self.rate * _NS)

    def those_due(self) -> Iterator[bytes]:
        """Whatever is due by now; its send time is its schedule's."""
        now = monotonic_ns()
        while self.sent < self.count and (due_ns := self._due_ns(self.sent)) <= now:
            self.latest_ns = max(self.latest_ns, now - due_ns)
            yield self._pack(due_ns + self._wall_shift_ns, self.sent, self._run) + self._filler
            self.sent += 1

    def account(self) -> dict[str, Any]:
        """What was sent, as the answer of the program."""
        shift = self._wall_shift_ns
        return {"sent": self.sent, "began_ns": self.began_ns + shift, "ended_ns": monotonic_ns() + shift,
                "latest": self.latest_ns / _NS}  # fmt: skip


def publish_blocking(client: BlockingClient, where: Where, form: Form) -> None:
    """Serve the commands of a publisher with a library that blocks."""
    client.open_publisher(where)
    publish = client.publish
    print("ready", flush=True)
    for line in sys.stdin:
        plan = Plan(json.loads(line), form)
        sleep_until(plan.begin_ns)
        plan.begin()
        while plan.sent < plan.count or not plan.rate:
            if plan.rate:
                sleep_until(plan.next_due_ns())
            before = plan.sent
            for body in plan.those_due() if plan.rate else plan.next_block():
                publish(body)
            if not plan.rate and plan.sent == before:
                break
            client.turn()
        client.flush()
        print(json.dumps(plan.account()), flush=True)


async def publish_async(client: AsyncClient, where: Where, form: Form) -> None:
    """Serve the commands of a publisher with a library for asyncio."""
    await client.open_publisher(where)
    publish = client.publish
    timer = LoopTimer()
    print("ready", flush=True)
    while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        plan = Plan(json.loads(line), form)
        await timer.until(plan.begin_ns)
        plan.begin()
        while plan.sent < plan.count or not plan.rate:
            if plan.rate:
                await timer.until(plan.next_due_ns())
            before = plan.sent
            for body in plan.those_due() if plan.rate else plan.next_block():
                await publish(body)
            if not plan.rate and plan.sent == before:
                break
            await client.turn()
        await client.flush()
        print(json.dumps(plan.account()), flush=True)
    timer.close()


def subscribe_blocking(client: BlockingClient, where: Where, form: Form, calls_function: bool) -> None:
    """Serve the commands of a subscriber with a library that blocks, or has threads of its own."""
    recorder = Recorder(form)
    client.open_subscriber(where, taker(recorder, calls_function))
    threading.Thread(target=client.receive, name="receive", daemon=True).start()
    print("ready", flush=True)
    serve(recorder)


async def subscribe_async(client: AsyncClient, where: Where, form: Form, calls_function: bool) -> None:
    """Serve the commands of a subscriber with a library for asyncio."""
    recorder = Recorder(form)
    await client.open_subscriber(where, taker(recorder, calls_function))
    print("ready", flush=True)
    threading.Thread(target=serve, args=(recorder,), name="commands", daemon=True).start()
    await client.receive()


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run it under uvloop, where that is installed."""
    try:
        uvloop: Any = importlib.import_module("uvloop")
    except ImportError:
        asyncio.run(work)
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(work)


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.peers.library", description=__doc__)
    parser.add_argument("--do", choices=("publish", "subscribe"), required=True)
    parser.add_argument("--client", choices=sorted(_CLIENTS), required=True)
    parser.add_argument("--connect", type=traffic.Endpoint.parse, required=True, help="the server")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", default="", help="share the topic's events in a group of this name")
    parser.add_argument("--events", action="store_true", help="bodies are events for a function")
    parser.add_argument("--calls", action="store_true", help="the function is called with each")
    parser.add_argument("--real-time", type=int, default=0, help="priority of SCHED_FIFO, if it can be had")
    args = parser.parse_args()
    sharp_timers()
    if args.real_time:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(args.real_time))
        except OSError as error:
            print(f"no real time: {error}", file=sys.stderr)
    where = Where(args.connect.ip, args.connect.port, args.topic, args.group)
    client = _CLIENTS[args.client]()
    form = calls.FORM if args.events or args.calls else MARKED
    if isinstance(client, AsyncClient):
        publishing = publish_async(client, where, form) if args.do == "publish" else None
        run_loop(publishing or subscribe_async(client, where, form, args.calls))
    elif args.do == "publish":
        publish_blocking(client, where, form)
    else:
        subscribe_blocking(client, where, form, args.calls)


if __name__ == "__main__":
    main()
