"""One end of requests and replies through a client library: `python -m tempos_bench.peers.requests`.

Prints `ready` once it is connected. Who answers gives every body back as it came, until it is stopped; who
asks (`--do ask`) answers each command with a JSON line:

    {"size", "count", "outstanding"}  ->  {"samples_ns": [...], "seconds", "lost"}

`outstanding` requests are under way at any time, each made when the one before has its answer; a request is
timed from the call to the return of the library's own function. Each library is used as its documentation
does it; both run under uvloop where that is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from tempos import NoReply, Publisher, Subscriber
from tempos_bench.compiled import traffic
from tempos_bench.peers.clients import Where
from tempos_bench.peers.library import run_loop
from tempos_bench.programs.rehearsal import Asked

#: Seconds until a request counts as lost.
_TIMEOUT = 5.0


class Client(ABC):
    """A library with requests; one end of it."""

    #: Makes a request and waits for its answer; raises one of :attr:`lost` where none comes.
    request: Callable[[bytes], Awaitable[object]]
    lost: tuple[type[Exception], ...] = ()

    @abstractmethod
    async def open(self, where: Where) -> None: ...

    @abstractmethod
    async def answer(self, where: Where, ready: Callable[[], None]) -> None:
        """Give every body back; ends with the process."""


class TemposClient(Client):
    """Tempos' own."""

    lost = (NoReply,)

    async def open(self, where: Where) -> None:
        self._publisher = await Publisher(where.address).__aenter__()
        publisher, topic = self._publisher, where.topic
        self.request = lambda body: publisher.request(topic, body, _TIMEOUT)

    async def answer(self, where: Where, ready: Callable[[], None]) -> None:
        async with Subscriber(where.address, where.topic) as sub:
            ready()
            async for event in sub:
                await event.reply(event.body)


class NatsClient(Client):
    """nats-py."""

    async def _connect(self, where: Where) -> Any:
        nats: Any = importlib.import_module("nats")
        self.lost = (importlib.import_module("nats.errors").Error,)
        return await nats.connect(f"nats://{where.address}:{where.port}", allow_reconnect=False)

    async def open(self, where: Where) -> None:
        connection, topic = await self._connect(where), where.topic
        self.request = lambda body: connection.request(topic, body, timeout=_TIMEOUT)

    async def answer(self, where: Where, ready: Callable[[], None]) -> None:
        connection = await self._connect(where)

        async def give_back(message: Any) -> None:
            await message.respond(message.data)

        await connection.subscribe(where.topic, cb=give_back)
        await connection.flush()
        ready()
        await asyncio.Event().wait()


CLIENTS: dict[str, type[Client]] = {"tempos": TemposClient, "nats": NatsClient}


async def ask(client: Client, where: Where) -> None:
    """Serve the commands of who asks."""
    await client.open(where)
    print("ready", flush=True)
    while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await _measure(client, json.loads(line))), flush=True)


async def _measure(client: Client, command: dict[str, Any]) -> dict[str, Any]:
    body, outstanding = bytes(command["size"]), command["outstanding"]
    samples: list[int] = []
    lost = 0

    async def one_after_the_other(count: int) -> None:
        nonlocal lost
        clock, request = time.perf_counter_ns, client.request
        for _ in range(count):
            began = clock()
            try:
                await request(body)
            except client.lost:
                lost += 1
            else:
                samples.append(clock() - began)

    shares = [command["count"] // outstanding] * outstanding
    began = time.perf_counter()
    await asyncio.gather(*map(one_after_the_other, shares))
    return {"samples_ns": samples, "seconds": time.perf_counter() - began, "lost": lost}


def planned(asked: Asked) -> dict[str, Any]:
    """What a plan takes for the answer of who asks."""
    return {"samples_ns": [1000] * asked.message["count"], "seconds": 1.0, "lost": 0}


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.peers.requests", description=__doc__)
    parser.add_argument("--do", choices=("ask", "answer"), required=True)
    parser.add_argument("--client", choices=sorted(CLIENTS), required=True)
    parser.add_argument("--connect", type=traffic.Endpoint.parse, required=True, help="the server")
    parser.add_argument("--topic", required=True)
    args = parser.parse_args()
    where = Where(args.connect.ip, args.connect.port, args.topic)
    client = CLIENTS[args.client]()
    if args.do == "ask":
        run_loop(ask(client, where))
    else:
        run_loop(client.answer(where, lambda: print("ready", flush=True)))


if __name__ == "__main__":
    main()
