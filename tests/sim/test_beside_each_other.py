"""Moves, drains, removals, reloads, joins and looks, all at once: each is done, or refused in words."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from support.proving import granted

from tempos import Framing, PathChoice, PathPolicy, Quality, Route, Topic
from tempos.control import Reply, decode_reply, encode_request
from tempos_broker.api.application import application
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ControlConfig, TopicConfig

from .test_broker import FakeFastPath, free_ports, until

SEEDS = range(8)
NAMES = ("alpha", "beta", "gamma", "delta")
GROUPS = ("g", "h/x")
#: Datagrams, as either framing has them.
RAW, EVENT = b"x", bytes([0x10, 0, 0]) + bytes(20) + b"body"


class SlowFastPath(FakeFastPath):
    """Installing and withdrawing take so many turns of the loop, and sometimes the slow path is chosen."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    async def install(self, route: Route) -> PathChoice:
        await self._wait()
        return await super().install(route)

    async def withdraw(self, topic: int) -> None:
        await self._wait()
        await super().withdraw(topic)

    async def configure(self, topics: Any) -> None:
        await self._wait()
        await super().configure(topics)

    async def _wait(self) -> None:
        for _ in range(self._rng.randrange(6)):
            await asyncio.sleep(0)


class World:
    """A broker, who asks it, and all that it answered: by HTTP status, or the codes of control replies."""

    def __init__(self, broker: Broker, rng: random.Random) -> None:
        self.broker, self.rng = broker, rng
        self.app = application(broker, self._reload)
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._ports = [rng.randrange(20_000, 60_000) for _ in range(6)]
        self._next = 0

    def config(self) -> BrokerConfig:
        """Some of the names, each with any id, framing, class and policy."""
        rng = self.rng
        names = rng.sample(NAMES, rng.randint(2, 4))
        ids = rng.sample(range(1, 6), len(names))
        topics = tuple(
            TopicConfig(
                Topic(
                    id_, name, quality=rng.choice(list(Quality)), framing=rng.choice(list(Framing)),
                    policy=rng.choice(list(PathPolicy)),
                )
            )
            for id_, name in zip(ids, names, strict=True)
        )  # fmt: skip
        return replace(self.broker.config, topics=topics)

    async def _reload(self) -> tuple[str, ...]:
        return await self.broker.reload(self.config())

    async def http(self, method: str, path: str, body: object = None) -> None:
        raw, _, query = path.partition("?")
        sent = b"" if body is None else json.dumps(body).encode()
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "path": raw.replace("%2F", "/"), "raw_path": raw.encode(), "query_string": query.encode(),
            "scheme": "http", "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 9996),
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"),
                        (b"content-length", str(len(sent)).encode())],
        }  # fmt: skip
        said: list[dict[str, Any]] = []
        asked = iter([{"type": "http.request", "body": sent, "more_body": False}])

        async def receive() -> dict[str, Any]:
            for message in asked:
                return message
            # It stays until it has its answer.
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

        async def send(message: Any) -> None:
            said.append(message)

        try:
            await self.app(scope, receive, send)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001 - a server would answer 500
            self.wrong.append(f"{method} {path}: {error!r}")
            return
        status = said[0]["status"]
        self.answers[f"{method} {status}"] += 1
        if status >= 500 or status in (401, 403, 405, 422):
            self.wrong.append(f"{method} {path}: {status} {said[1:]}")

    async def control(self, op: str, client: int, **fields: Any) -> None:
        self._next += 1
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def reply(data: bytes, **about: bool) -> None:
            if not answer.done():
                answer.set_result(decode_reply(data))

        if op == "subscribe":
            fields["proof"] = granted(self.broker, "127.0.0.1", self._ports[client], client, None)
        request = encode_request(op, self._next, client, port=self._ports[client], **fields)
        for _ in range(50):
            # As clients do; a drain is only then answered.
            self.broker._port._receive(request, "127.0.0.1", None, reply)
            done, _ = await asyncio.wait((answer,), timeout=0.2)
            if done:
                break
        else:
            self.wrong.append(f"{op} {fields}: no answer")
            return
        error = answer.result().error
        self.answers[f"{op} {error.code if error else 'ok'}"] += 1

    async def one(self) -> None:
        rng = self.rng
        name, group, client = rng.choice(NAMES), rng.choice(GROUPS), rng.randrange(6)
        topic = f"/v1/topics/{name}"
        member = f"{topic}/groups/{quote(group, safe='')}/members/127.0.0.1:{self._ports[client]}"
        match rng.randrange(14):
            case 0:
                await self.http("POST", f"{topic}/path", {"policy": rng.choice(list(PathPolicy)).value})
            case 1:
                await self.http("POST", f"{member}/drain", {"patience_s": 0.02, "keep_out_s": 0})
            case 2:
                await self.http("DELETE", f"{member}?keep_out_s={rng.choice((0, 0.01))}")
            case 3:
                await self.http("POST", "/v1/reload")
            case 4:
                where = rng.choice(
                    ("", "/path", "/route", "/groups", f"/groups/{quote(group, safe='')}/members")
                )
                await self.http("GET", topic + where)
            case 5:
                look = rng.choice(
                    ("status", "ledger", f"ledger/{name}", "topics", "paths", "routes", "kept-out")
                )
                await self.http("GET", f"/v1/{look}")
            case 6:
                await self.control("unsubscribe", client, topic=name, group=group)
            case 7:
                await self.control(rng.choice(("goodbye", "heartbeat")), client, received=[])
            case 8:
                await self.control("drain", client, received=[], patience_ms=20)
            case 9:
                self.broker._fast.changed()  # type: ignore[attr-defined]
            case 10:
                for _ in range(rng.randrange(30)):
                    data = bytes([rng.randrange(1, 6)]) + rng.choice((RAW, EVENT))
                    self._sock.sendto(data, ("127.0.0.1", self.broker.config.data_port))
            case _:
                await self.control("subscribe", client, topic=name, group=group)

    async def many(self, count: int) -> None:
        for _ in range(count):
            await self.one()
            for _ in range(self.rng.randrange(3)):
                await asyncio.sleep(0)

    def close(self) -> None:
        self._sock.close()


@contextlib.asynccontextmanager
async def world(seed: int) -> AsyncIterator[World]:
    rng = random.Random(seed)
    data, control = free_ports(2)
    config = BrokerConfig(
        (TopicConfig(Topic(1, "alpha")), TopicConfig(Topic(2, "beta", framing=Framing.RAW))),
        listen=("127.0.0.1",), data_port=data, control_port=control, api_port=0,
        control=ControlConfig(lease=0.4, heartbeat=0.1, rate=1_000_000),
    )  # fmt: skip
    async with Broker(config, SlowFastPath(rng)) as broker:
        made = World(broker, rng)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_comes_beside_whatever_is_done_or_refused_in_words(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(seed) as made:
        with caplog.at_level(logging.ERROR):
            await asyncio.gather(*(made.many(60) for _ in range(8)))
            # Nobody is there any more, and everything has been counted.
            for client in range(6):
                await made.control("goodbye", client, received=[])
            await until(lambda: not made.broker.status()["paths"]["slow"]["queued"])
        assert not made.wrong, (seed, made.wrong[:5], made.answers)
        assert not caplog.records, (seed, caplog.text)
        ledger = made.broker.ledger()
        assert ledger["balanced"], (seed, [topic["problems"] for topic in ledger["topics"]])
        assert sum(made.answers.values()) > 300
