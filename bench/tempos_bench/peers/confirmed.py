"""One end where every event is confirmed: `python -m tempos_bench.peers.confirmed`.

`--do publish` sends `--count` events, at `--rate` a second or, at 0, as fast as they are confirmed, and waits
until the last one is: by an acknowledgement of each (JetStream, MQTT QoS 1), or because the broker says that
all have come (tempos). At most `--window` events wait for that. `--do subscribe` takes them, acknowledges
each where that is the way, and tells what came. Each prints `ready`, begins at a line on its input, and
prints one JSON object. An event is its number, the time when it was due (ns), and padding.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import struct
import sys
import threading
import time
from array import array
from collections.abc import AsyncIterator
from typing import Any, Protocol

import uvloop

from tempos_bench.measure.stats import percentile
from tempos_bench.nodes.patience import patience
from tempos_bench.peers.clock import LoopTimer, sharp_timers

_EVENT = struct.Struct("!QQ")
_SUBJECT = "confirmed.events"
_STREAM = "CONFIRMED"


class Record:
    """What came, by number, and how long it took since it was due."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.times = bytearray(count)
        self.took = array("Q")
        self.received = 0
        self.last_ns = 0
        self.fresh = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def take(self, body: bytes | memoryview) -> None:
        """One event."""
        now = time.time_ns()
        number, due = _EVENT.unpack_from(body)
        if number >= self.count:
            return
        if not self.times[number]:
            self.received += 1
            self.took.append(max(0, now - due))
            self.last_ns = now
        self.times[number] = min(255, self.times[number] + 1)

    def told(self) -> dict[str, Any]:
        """What came of it."""
        return {
            "received": self.received,
            "doubled": sum(each - 1 for each in self.times if each > 1),
            "last_ns": self.last_ns,
            **{f"p{p}": percentile(self.took, p) / 1000 for p in (50, 99)},
        }


class System(Protocol):
    """One of those that are compared."""

    def publisher(self, args: argparse.Namespace) -> contextlib.AbstractAsyncContextManager[Any]:
        """Connected; what it gives has ``publish(body)`` and ``confirmed()``, both awaited."""
        ...

    def subscriber(
        self, args: argparse.Namespace, record: Record
    ) -> contextlib.AbstractAsyncContextManager[None]:
        """Connected; everything that comes is recorded."""
        ...


class Tempos:
    """The topic has a journal; at most so many events wait for the broker's word."""

    @contextlib.asynccontextmanager
    async def publisher(self, args: argparse.Namespace) -> AsyncIterator[Any]:
        from tempos import Publisher

        class Sending:
            def __init__(self, inner: Publisher) -> None:
                self._inner, self._waits = inner, 0

            async def publish(self, body: bytes) -> None:
                await self._inner.publish(args.topic, body)
                self._waits += 1
                if self._waits >= args.window:
                    await self.confirmed()

            async def confirmed(self) -> None:
                self._waits = 0
                await self._inner.confirmed(60)

        async with Publisher(args.address, window=64 << 20, linger=args.linger) as inner:
            await inner.learn(args.topic)
            yield Sending(inner)

    @contextlib.asynccontextmanager
    async def subscriber(self, args: argparse.Namespace, record: Record) -> AsyncIterator[None]:
        from tempos import Subscriber

        async def read(inner: Subscriber) -> None:
            async for events in inner.batches():
                for event in events:
                    record.take(event.body)
                record.fresh.set()

        async with Subscriber(args.address, args.topic, group="g", repair=30, queue=1 << 20) as inner:
            task = asyncio.create_task(read(inner))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait([task])


class JetStream:
    """A stream in memory; the publisher waits for its acknowledgements, a push consumer acknowledges each."""

    @contextlib.asynccontextmanager
    async def publisher(self, args: argparse.Namespace) -> AsyncIterator[Any]:
        import nats

        connection = await nats.connect(args.address)
        stream = connection.jetstream(publish_async_max_pending=args.window)

        class Sending:
            async def publish(self, body: bytes) -> None:
                await stream.publish_async(_SUBJECT, body, wait_stall=60)

            async def confirmed(self) -> None:
                await stream.publish_async_completed()

        try:
            yield Sending()
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def subscriber(self, args: argparse.Namespace, record: Record) -> AsyncIterator[None]:
        import nats
        from nats.js.api import ConsumerConfig, StorageType, StreamConfig

        connection = await nats.connect(args.address)
        stream = connection.jetstream()
        with contextlib.suppress(nats.js.errors.NotFoundError):
            await stream.delete_stream(_STREAM)
        await stream.add_stream(StreamConfig(_STREAM, subjects=[_SUBJECT], storage=StorageType.MEMORY))

        async def take(message: Any) -> None:
            record.take(message.data)
            record.fresh.set()

        wanted = ConsumerConfig(max_ack_pending=1 << 20)
        await stream.subscribe(
            _SUBJECT, cb=take, config=wanted, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        try:
            yield
        finally:
            await connection.close()


class Mosquitto:
    """QoS 1 on both ends; paho's own thread, whose acknowledgements are counted."""

    @contextlib.asynccontextmanager
    async def publisher(self, args: argparse.Namespace) -> AsyncIterator[Any]:
        client = self._client()
        client.max_inflight_messages_set(args.window)
        client.max_queued_messages_set(0)
        done = threading.Condition()
        acknowledged = 0

        def on_publish(*_: Any) -> None:
            nonlocal acknowledged
            with done:
                acknowledged += 1
                done.notify_all()

        class Sending:
            sent = 0

            async def publish(self, body: bytes) -> None:
                client.publish(_SUBJECT, body, qos=1)
                self.sent += 1
                if self.sent - acknowledged >= args.window:
                    await self._until(self.sent - args.window // 2)

            async def confirmed(self) -> None:
                await self._until(self.sent)

            async def _until(self, count: int) -> None:
                def wait() -> None:
                    with done:
                        done.wait_for(lambda: acknowledged >= count, 60)

                await asyncio.get_running_loop().run_in_executor(None, wait)

        client.on_publish = on_publish
        client.connect(args.address)
        client.loop_start()
        try:
            yield Sending()
        finally:
            client.loop_stop()

    @contextlib.asynccontextmanager
    async def subscriber(self, args: argparse.Namespace, record: Record) -> AsyncIterator[None]:
        loop, client = asyncio.get_running_loop(), self._client()
        heard = threading.Event()

        def on_message(_client: Any, _data: Any, message: Any) -> None:
            record.take(message.payload)
            if record.received >= record.count:
                loop.call_soon_threadsafe(record.fresh.set)

        client.on_message = on_message
        client.on_connect = lambda *_: client.subscribe(_SUBJECT, qos=1)
        client.on_subscribe = lambda *_: heard.set()
        client.connect(args.address)
        client.loop_start()
        await loop.run_in_executor(None, heard.wait, 30)
        try:
            yield
        finally:
            client.loop_stop()

    def _client(self) -> Any:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        return Client(CallbackAPIVersion.VERSION2)


SYSTEMS: dict[str, System] = {"tempos": Tempos(), "JetStream": JetStream(), "Mosquitto": Mosquitto()}


async def publish(args: argparse.Namespace) -> dict[str, Any]:
    """Send, and wait until all is confirmed."""
    loop, padding = asyncio.get_running_loop(), bytes(args.size - _EVENT.size)
    sharp_timers()
    # More exact than event loops, which count in milliseconds.
    timer = LoopTimer()
    async with SYSTEMS[args.system].publisher(args) as sending:
        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        began, began_ns = time.monotonic_ns(), time.time_ns()
        for number in range(args.count):
            due = time.time_ns()
            if args.rate:
                after = round(number / args.rate * 1e9)
                await timer.until(began + after)
                due = began_ns + after
            await sending.publish(_EVENT.pack(number, due) + padding)
        await sending.confirmed()
        return {"sent": args.count, "began_ns": began_ns, "confirmed_ns": time.time_ns()}


async def subscribe(args: argparse.Namespace) -> dict[str, Any]:
    """Take what comes."""
    loop, record = asyncio.get_running_loop(), Record(args.count)
    async with SYSTEMS[args.system].subscriber(args, record):
        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        before = -1
        while record.received < args.count and record.received != before:
            before = record.received
            record.fresh.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(record.fresh.wait(), patience(args.idle))
        return record.told()


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.peers.confirmed", description=__doc__)
    parser.add_argument("--do", choices=("publish", "subscribe"), required=True)
    parser.add_argument("--system", choices=SYSTEMS, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--topic", default="events")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--window", type=int, default=4096)
    parser.add_argument("--linger", type=float, default=0, help="tempos: seconds to fill a datagram")
    parser.add_argument("--idle", type=float, default=3)
    parser.add_argument("--fifo", type=int, default=0, help="SCHED_FIFO priority; 0: ordinary scheduling")
    args = parser.parse_args()
    if args.fifo:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(args.fifo))
    uvloop.install()
    told = asyncio.run(publish(args) if args.do == "publish" else subscribe(args))
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
