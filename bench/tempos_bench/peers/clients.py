"""Each peer's well-used Python client behind one interface, used as its documentation does for speed.

`publish` hands one event to the library, and is the library's own function wherever that can be: there is
nothing of ours around it. `turn` comes after a block of events, or after those that were due, and does what
the library needs then; `flush` returns when everything has left. The libraries are imported when they are
opened, and only there: none of them is needed for anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tempos import Publisher, Subscriber
from tempos_bench.peers.talk import PeerRefused
from tempos_bench.peers.zeromq_proxy import HIGH_WATER

#: Takes the body of an event; what it gives is the answer, for those who ask for one.
Record = Callable[[bytes], "bytes | None"]
_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class Where:
    """A server's address and port, the topic, and the group that subscribers share it in, if any."""

    address: str
    port: int
    topic: str
    group: str = ""


class BlockingClient(ABC):
    """A library whose calls block, or that has threads of its own. One end of it, opened once."""

    #: Set by `open_publisher`.
    publish: Callable[[bytes], object]

    @abstractmethod
    def open_publisher(self, where: Where) -> None: ...

    @abstractmethod
    def open_subscriber(self, where: Where, record: Record) -> None: ...

    def turn(self) -> None:
        return

    def flush(self) -> None:
        return

    def receive(self) -> None:
        """Hand over what arrives, in a thread of its own; a library with threads needs none."""
        return


class AsyncClient(ABC):
    """A library for asyncio. One end of it, opened once."""

    #: Set by `open_publisher`.
    publish: Callable[[bytes], Awaitable[None]]

    @abstractmethod
    async def open_publisher(self, where: Where) -> None: ...

    @abstractmethod
    async def open_subscriber(self, where: Where, record: Record) -> None: ...

    async def turn(self) -> None:
        return

    async def flush(self) -> None:
        return

    async def receive(self) -> None:
        """Hand over what arrives; a library that calls back only needs the loop to go on."""
        await asyncio.Event().wait()


class TemposClient(AsyncClient):
    """Tempos' own: `Publisher` and `Subscriber`, found by name over the control port."""

    async def open_publisher(self, where: Where) -> None:
        self._stack = contextlib.AsyncExitStack()
        self._publisher = await self._stack.enter_async_context(Publisher(where.address))
        await self._publisher.learn(where.topic)
        self.publish = partial(self._publisher.publish, where.topic)

    async def flush(self) -> None:
        await self._publisher.flush()

    async def open_subscriber(self, where: Where, record: Record) -> None:
        self._stack = contextlib.AsyncExitStack()
        self._subscriber = await self._stack.enter_async_context(
            Subscriber(where.address, where.topic, group=where.group or None)
        )
        self._record = record

    async def receive(self) -> None:
        record = self._record
        async for events in self._subscriber.batches():
            for event in events:
                record(event.body)


class TemposBatchClient(TemposClient):
    """The same inside `batch()`: events share datagrams, as TCP's share segments in all the others."""

    async def open_publisher(self, where: Where) -> None:
        await super().open_publisher(where)
        await self._stack.enter_async_context(self._publisher.batch())

    async def turn(self) -> None:
        await self._publisher.flush()


class UdpClient(AsyncClient):
    """No library: a datagram for each event, to whoever turns signals into events."""

    async def open_publisher(self, where: Where) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(where.address, where.port)
        )
        self.publish = self._send

    async def _send(self, body: bytes) -> None:
        self._transport.sendto(body)

    async def open_subscriber(self, where: Where, record: Record) -> None:
        raise PeerRefused("signals are sent, and not subscribed to")


class NatsClient(AsyncClient):
    """nats-py. It gathers what is published and writes it from a task, which `turn` lets run."""

    async def _connect(self, where: Where) -> Any:
        nats: Any = importlib.import_module("nats")
        return await nats.connect(f"nats://{where.address}:{where.port}", allow_reconnect=False)

    async def open_publisher(self, where: Where) -> None:
        self._connection = await self._connect(where)
        self.publish = partial(self._connection.publish, where.topic)

    async def turn(self) -> None:
        await asyncio.sleep(0)

    async def flush(self) -> None:
        await self._connection.flush(timeout=_LIMIT)

    async def open_subscriber(self, where: Where, record: Record) -> None:
        self._connection = await self._connect(where)

        async def take(message: Any) -> None:
            record(message.data)

        # 0: as many as come; by default the library drops what a slow application leaves waiting.
        limits = {"pending_msgs_limit": 0, "pending_bytes_limit": 0}
        await self._connection.subscribe(where.topic, where.group, cb=take, **limits)
        await self._connection.flush(timeout=_LIMIT)


class MqttClient(BlockingClient):
    """paho-mqtt with its network thread, MQTT 5; 1,000 unacknowledged events where the default is 20."""

    qos = 0

    def _connect(self, where: Where) -> Any:
        mqtt: Any = importlib.import_module("paho.mqtt.client")
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.max_inflight_messages_set(1000)
        client.max_queued_messages_set(0)
        connected = threading.Event()
        client.on_connect = lambda *_: connected.set()
        client.connect(where.address, where.port)
        client.loop_start()
        if not connected.wait(_LIMIT):
            raise PeerRefused("the MQTT server does not answer")
        return client

    def open_publisher(self, where: Where) -> None:
        self._client = self._connect(where)
        self._last: Any = None
        topic, qos, publish = where.topic, self.qos, self._client.publish

        def publish_and_keep(body: bytes) -> None:
            self._last = publish(topic, body, qos)

        self.publish = publish_and_keep

    def flush(self) -> None:
        if self._last is not None:
            self._last.wait_for_publish(_LIMIT)

    def open_subscriber(self, where: Where, record: Record) -> None:
        self._client = self._connect(where)
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = lambda client, data, message: record(message.payload)
        shared = f"$share/{where.group}/{where.topic}" if where.group else where.topic
        self._client.subscribe(shared, qos=self.qos)
        if not subscribed.wait(_LIMIT):
            raise PeerRefused("the MQTT server does not confirm the subscription")


class MqttQos1Client(MqttClient):
    """The same at QoS 1."""

    qos = 1


class RedisClient(BlockingClient):
    """redis-py; publishes in pipelines: of a block, or of what was due."""

    def _connect(self, where: Where) -> Any:
        redis: Any = importlib.import_module("redis")
        return redis.Redis(host=where.address, port=where.port)

    def open_publisher(self, where: Where) -> None:
        self._pipeline = self._connect(where).pipeline(transaction=False)
        self.publish = partial(self._pipeline.publish, where.topic)

    def turn(self) -> None:
        self._pipeline.execute()

    def open_subscriber(self, where: Where, record: Record) -> None:
        self._pubsub = self._connect(where).pubsub(ignore_subscribe_messages=False)
        self._pubsub.subscribe(where.topic)
        if self._pubsub.get_message(timeout=_LIMIT) is None:
            raise PeerRefused("Redis does not confirm the subscription")
        self._record = record

    def receive(self) -> None:
        record = self._record
        for message in self._pubsub.listen():
            if message["type"] == "message":
                record(message["data"])


class ZeromqClient(BlockingClient):
    """pyzmq: PUB and SUB, topic and body in one frame, full queues hold the publisher back."""

    def open_publisher(self, where: Where) -> None:
        zmq: Any = importlib.import_module("zmq")
        self._socket = zmq.Context.instance().socket(zmq.PUB)
        self._socket.set_hwm(HIGH_WATER)
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._socket.connect(f"tcp://{where.address}:{where.port}")
        topic, send = where.topic.encode(), self._socket.send
        self.publish = lambda body: send(topic + body)

    def open_subscriber(self, where: Where, record: Record) -> None:
        zmq: Any = importlib.import_module("zmq")
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.set_hwm(HIGH_WATER)
        self._socket.connect(f"tcp://{where.address}:{where.port}")
        self._socket.subscribe(where.topic)
        self._skip = len(where.topic)
        self._record = record

    def receive(self) -> None:
        record, skip, receive = self._record, self._skip, self._socket.recv
        while True:
            record(receive()[skip:])


class ZenohClient(BlockingClient):
    """eclipse-zenoh: a session in client mode, a declared publisher that is held back, a callback."""

    def _open(self, where: Where) -> Any:
        self._zenoh: Any = importlib.import_module("zenoh")
        config = self._zenoh.Config()
        config.insert_json5("mode", '"client"')
        config.insert_json5("connect/endpoints", f'["tcp/{where.address}:{where.port}"]')
        config.insert_json5("scouting/multicast/enabled", "false")
        return self._zenoh.open(config)

    def open_publisher(self, where: Where) -> None:
        self._session = self._open(where)
        block = self._zenoh.CongestionControl.BLOCK
        self._publisher = self._session.declare_publisher(where.topic, congestion_control=block)
        self.publish = self._publisher.put

    def open_subscriber(self, where: Where, record: Record) -> None:
        self._session = self._open(where)
        take = lambda sample: record(sample.payload.to_bytes())  # noqa: E731
        self._subscriber = self._session.declare_subscriber(where.topic, take)


#: By the name that `--client` takes.
CLIENTS: dict[str, Callable[[], BlockingClient | AsyncClient]] = {
    "tempos": TemposClient,
    "tempos-batch": TemposBatchClient,
    "udp": UdpClient,
    "nats": NatsClient,
    "mqtt0": MqttClient,
    "mqtt1": MqttQos1Client,
    "redis": RedisClient,
    "zeromq": ZeromqClient,
    "zenoh": ZenohClient,
}
