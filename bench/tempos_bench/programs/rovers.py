"""Clients of a network that changes: `python -m tempos_bench.programs.rovers KIND ROLE HOST`.

KIND is how the library is used: `asyncio`, `uvloop` or `blocking`. A `publish`er sends to each of `--topics`
every `--period` seconds, `--members` `subscribe`rs of one group read them. Bodies name their publisher
(`--name`), count, and tell when they were sent (CLOCK_MONOTONIC, ns, which is one for all namespaces).

Commands come as JSON lines:

| command  | does                                    | answers                                               |
|----------|-----------------------------------------|-------------------------------------------------------|
| `"tell"` | nothing                                 | :class:`Sends` or :class:`Takes`, as they have it now |
| `"rest"` | a publisher sends nothing until `"on"`  | the same, when it has sent its last                   |
| `"on"`   |                                         | the same                                              |
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import time
from collections import Counter
from typing import Any

from tempos import Publisher, Subscriber, TemposError, blocking


class Sends:
    """What a publisher has sent: by topic; ``refused`` by the library's error."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self.sent: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.resting = False
        self._turn = threading.Lock()

    def told(self) -> dict[str, Any]:
        with self._turn:
            return {"sent": dict(self.sent), "refused": dict(self.refused)}

    def next(self, topic: str) -> bytes:
        return b"%s %d %d" % (self._args.name.encode(), self.sent[topic], time.monotonic_ns())

    async def send(self) -> None:
        async with Publisher(self._args.host, wait=True) as publisher:
            print("ready", flush=True)
            while True:
                for topic in () if self.resting else self._args.topics:
                    try:
                        await publisher.publish(topic, self.next(topic))
                        self.sent[topic] += 1
                    except TemposError as error:
                        self.refused[type(error).__name__] += 1
                await asyncio.sleep(self._args.period)

    def send_blocking(self) -> None:
        pause = threading.Event()
        with blocking.Publisher(self._args.host, wait=True) as publisher:
            print("ready", flush=True)
            while not pause.wait(self._args.period):
                for topic in () if self.resting else self._args.topics:
                    # One after the other, so that each is known to have been sent or not.
                    try:
                        publisher.publish(topic, self.next(topic))
                        publisher.flush()
                        self.sent[topic] += 1
                    except TemposError as error:
                        self.refused[type(error).__name__] += 1


class Takes:
    """What a group got.

    ``got``: different events by topic; ``doubled``: those that came again. ``newest``: when the newest event
    was sent that came to a member, and that came from a publisher, by topic.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self.resting = False
        self._numbers: dict[tuple[str, str], set[int]] = {}
        self._newest: dict[str, int] = {}
        self._doubled: list[str] = []
        self._members: list[Any] = []

    def told(self) -> dict[str, Any]:
        got: Counter[str] = Counter()
        for (topic, _), numbers in list(self._numbers.items()):
            got[topic] += len(numbers)
        where = [f"{each.member.ip}:{each.member.port}" for each in self._members]
        return {
            "got": got, "doubled": len(self._doubled), "some": self._doubled[:5], "newest": self._newest,
            "members": where, "missed": sum(each.stats.missed for each in self._members),
        }  # fmt: skip

    def take(self, member: int, topic: str, body: bytes) -> None:
        name, number, at = body.split()
        publisher = name.decode()
        numbers = self._numbers.setdefault((topic, publisher), set())
        if int(number) in numbers:
            self._doubled.append(f"{topic} {publisher} {int(number)} at member {member}")
        numbers.add(int(number))
        for place in (f"member {member}", f"from {publisher}"):
            key = f"{topic} {place}"
            self._newest[key] = max(self._newest.get(key, 0), int(at))

    async def read(self) -> None:
        subscribers = [Subscriber(self._args.host, *self._args.topics, group=self._args.name, wait=True)
                       for _ in range(self._args.members)]  # fmt: skip
        await asyncio.gather(*(each.__aenter__() for each in subscribers))
        self._members += subscribers
        print("ready", flush=True)

        async def one(number: int, subscriber: Subscriber) -> None:
            async for event in subscriber:
                self.take(number, event.topic, event.body)

        await asyncio.gather(*(one(number, each) for number, each in enumerate(subscribers)))

    def read_blocking(self) -> None:
        with blocking.Subscriber(
            self._args.host, *self._args.topics, group=self._args.name, wait=True
        ) as subscriber:
            self._members.append(subscriber)
            print("ready", flush=True)
            for event in subscriber:
                self.take(0, event.topic, event.body)


def main() -> None:
    """Run; ends with its input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("asyncio", "uvloop", "blocking"))
    parser.add_argument("role", choices=("publish", "subscribe"))
    parser.add_argument("host")
    parser.add_argument("--name", required=True)
    parser.add_argument("--topics", nargs="+", required=True)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--period", type=float, default=0.02)
    args = parser.parse_args()
    sends, takes = Sends(args), Takes(args)
    part: Sends | Takes = sends if args.role == "publish" else takes

    def work() -> None:
        if args.kind == "blocking":
            (sends.send_blocking if part is sends else takes.read_blocking)()
            return
        if args.kind == "uvloop":
            import uvloop

            uvloop.run(sends.send() if part is sends else takes.read())
        else:
            asyncio.run(sends.send() if part is sends else takes.read())

    # A daemon, for it ends only with the process.
    threading.Thread(target=work, daemon=True).start()
    pause = threading.Event()
    for line in sys.stdin:
        what = json.loads(line)
        if what in ("rest", "on"):
            part.resting = what == "rest"
            # An event that had begun is sent by then.
            pause.wait(10 * args.period)
        print(json.dumps(part.told()), flush=True)


if __name__ == "__main__":
    main()
