"""The supervisor around a fake worker: who reads the strict sockets when, and when a change is in force."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.waiting import LIMIT

from tempos_broker.config.model import Limits, QualityConfig
from tempos_broker.scheduling import Scheduling

protocol = pytest.importorskip("tempos_broker.worker.protocol", reason="the compiled helper is not built")
from tempos import Framing, Group, LocalError, Member, Overflow, Quality, Route, Topic  # noqa: E402
from tempos_broker.shared import Share  # noqa: E402
from tempos_broker.worker.protocol import Answer, Frames, Op, Request, SetUp, encode  # noqa: E402
from tempos_broker.worker.supervisor import LONGEST_WAIT, Held, State, Supervisor  # noqa: E402

OTHER = Scheduling("other", 0, 0, (1,), "ordinary scheduling, as configured")
FIFO = Scheduling("fifo", 99, 0, (1,), "SCHED_FIFO 99, as configured")


class FakeChild:
    """Answers what it is asked but ``deaf`` to some; dies by :meth:`die`, or when it is ended."""

    def __init__(self, world: World, received: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        self._world = world
        self._received, self._ended = received, ended
        self._frames = Frames()
        self.asked: list[Request] = []
        self.dead = False

    @property
    def pid(self) -> int:
        return 1000 + len(self._world.children)

    def send(self, frame: bytes) -> None:
        if self.dead:
            return
        for message in self._frames.feed(frame):
            request = protocol.request_in(message)
            self.asked.append(request)
            self._world.log.append(request.op.value)
            if request.op not in self._world.deaf:
                error = self._world.refuse.get(request.op, "")
                answer = encode(Answer(request.id, error, {"loop": "fake"}))
                # In two pieces, as a stream may bring it.
                asyncio.get_running_loop().call_soon(self._received, answer[:3])
                asyncio.get_running_loop().call_soon(self._received, answer[3:])

    def die(self) -> None:
        self.dead = True
        self._ended()

    def send_descriptors(self, descriptors: Sequence[int]) -> None:
        self._world.log.append("descriptors")

    async def end(self) -> str:
        await asyncio.sleep(0)
        self._world.log.append("end")
        self.dead = True
        return "ended by SIGKILL"


class World:
    """Spawns fake children; its sockets write down who reads them."""

    def __init__(self) -> None:
        self.children: list[FakeChild] = []
        self.deaf: set[Op] = set()
        self.refuse: dict[Op, str] = {}
        self.unspawnable = 0
        self.log: list[str] = []
        self.held = 0

    async def spawn(self, received: Callable[[bytes], None], ended: Callable[[], None]) -> FakeChild:
        await asyncio.sleep(0)
        if self.unspawnable:
            self.unspawnable -= 1
            raise OSError(11, "no more processes")
        self.children.append(FakeChild(self, received, ended))
        return self.children[-1]

    def set_up(self) -> Mapping[str, Any]:
        return {"routes": len(self.log)}

    def descriptors(self) -> Sequence[int]:
        return ()

    def hand_over(self) -> None:
        self.log.append("hand over")

    def take_over(self) -> None:
        self.log.append("take over")

    def settle(self) -> Held:
        self.log.append("settle")
        held, self.held = self.held, 0
        return Held(held, 2 * held)


@asynccontextmanager
async def supervised(world: World, **options: Any) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(
        world.spawn, world, lambda pid, serves: FIFO if serves else OTHER, **{"first_wait": 0.001, **options}
    )
    try:
        await asyncio.wait_for(supervisor.start(), LIMIT)
        yield supervisor
    finally:
        await asyncio.wait_for(supervisor.close(), LIMIT)


async def until(condition: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(poll(), LIMIT)


async def test_it_serves_after_the_hand_over_and_closes_in_order() -> None:
    world = World()
    async with supervised(world) as supervisor:
        status = supervisor.status
        assert (status.state, status.scheduling, status.started) == (State.SERVING, FIFO, 1)
        assert status.told == {"loop": "fake"}
        assert world.log == ["set_up", "hand over", "serve"]
        await asyncio.wait_for(supervisor.tell(Op.SWAP, {"route": {}}), LIMIT)
    assert [entry for entry in world.log[3:] if entry != "ping"] == ["swap", "close", "end", "settle"]
    assert "take over" not in world.log, "nobody reads on at the end"
    assert supervisor.status.state is State.OFF


async def test_a_change_waits_for_the_worker_or_for_its_end() -> None:
    world = World()
    async with supervised(world) as supervisor:
        world.deaf = {Op.SWAP}
        swap = asyncio.create_task(supervisor.tell(Op.SWAP, {}))
        await until(lambda: "swap" in world.log)
        assert not swap.done()
        world.log.clear()
        world.held = 7
        world.children[0].die()
        await asyncio.wait_for(swap, LIMIT)
        assert world.log[:3] == ["take over", "end", "settle"], "in force only when all is finished"
        world.deaf = set()
        await until(lambda: supervisor.status.state is State.SERVING)
        assert (supervisor.status.started, supervisor.status.lost, supervisor.status.unsent) == (2, 7, 14)
        assert world.children[1].asked[0].fields["routes"] > 0, "the next worker gets what holds then"


async def test_a_change_while_the_worker_starts_need_not_be_waited_for() -> None:
    world = World()
    world.deaf = {Op.SET_UP}
    supervisor = Supervisor(world.spawn, world, lambda pid, serves: FIFO if serves else OTHER)
    starting = asyncio.create_task(supervisor.start())
    await supervisor.tell(Op.SWAP, {})
    await until(lambda: "set_up" in world.log)
    await asyncio.wait_for(supervisor.tell(Op.SWAP, {}), LIMIT)
    assert world.log == ["set_up", "swap"], "before it serves"
    await asyncio.wait_for(supervisor.close(), LIMIT)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert world.log[2:] == ["end", "settle"]


@pytest.mark.parametrize("op", [Op.SET_UP, Op.SERVE, Op.SWAP, Op.PING])
async def test_one_that_fails_at_what_it_is_asked_is_replaced(op: Op) -> None:
    world = World()
    world.refuse = {op: "OSError: no memory"}
    supervisor = Supervisor(
        world.spawn, world, lambda pid, serves: FIFO if serves else OTHER, first_wait=0.001
    )
    try:
        await asyncio.wait_for(supervisor.start(), LIMIT)
        if op is Op.SWAP:
            await asyncio.wait_for(supervisor.tell(Op.SWAP, {}), LIMIT)
        await until(lambda: "settle" in world.log)
        assert ("take over" in world.log) is (op is not Op.SET_UP)
        world.refuse = {}
        await until(lambda: supervisor.status.state is State.SERVING and supervisor.status.started > 1)
    finally:
        await supervisor.close()


async def test_one_that_does_not_answer_is_killed_and_replaced() -> None:
    world = World()
    async with supervised(world, patience=0.05) as supervisor:
        world.deaf = {Op.SWAP}
        await asyncio.wait_for(supervisor.tell(Op.SWAP, {}), LIMIT)
        assert world.log[-3:] == ["take over", "end", "settle"]
        assert "did not answer within 0.05 s" in supervisor.status.reason or world.children[1:]
        await until(lambda: supervisor.status.state is State.SERVING)


async def test_where_no_process_can_be_started_the_broker_serves_and_tries_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And says so once, and once that it is over."""
    caplog.set_level(logging.INFO, "tempos.broker.worker")
    now = 1000.0
    world = World()
    world.unspawnable = 3
    async with supervised(world, now=lambda: now) as supervisor:
        assert world.log == []
        await supervisor.tell(Op.SWAP, {})
        await until(lambda: supervisor.status.state is State.SERVING)
        assert supervisor.status.started == 1
        now += LONGEST_WAIT + 1
        await until(lambda: any("again" in line for line in caplog.messages))
    (gone,) = [line for line in caplog.messages if "is gone" in line]
    assert "no process can be started: [Errno 11] no more processes" in gone
    assert "strict events are served by an SQ worker again (it went wrong 3 times)" in caplog.messages


async def test_workers_that_end_one_after_the_other_are_told_of_once_until_one_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def told() -> list[str]:
        texts = [text for text in caplog.messages if "is gone" in text or "again" in text]
        return [text.partition(";")[0] for text in texts]

    caplog.set_level(logging.INFO, "tempos.broker.worker")
    now = 1000.0
    world = World()
    async with supervised(world, now=lambda: now, patience=0.02) as supervisor:
        for born in range(1, 5):
            await until(lambda born=born: supervisor.status.started == born)  # type: ignore[misc]
            await until(lambda: supervisor.status.state is State.SERVING)
            # Long enough for the next one to be started at once, if it were told that it goes on.
            now += LONGEST_WAIT / 2
            world.children[-1].die()
        await until(lambda: supervisor.status.started == 5 and supervisor.status.state is State.SERVING)
        gone = "the SQ worker is gone: it ended by itself (ended by SIGKILL)"
        assert told() == [gone]
        now += LONGEST_WAIT + 1
        # An answer to a ping is what it takes to look again.
        await until(lambda: len(told()) > 1)
        assert told() == [gone, "strict events are served by an SQ worker again (it went wrong 4 times)"]


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\1\x01"])
async def test_one_that_talks_nonsense_is_replaced(garbage: bytes) -> None:
    world = World()
    async with supervised(world) as supervisor:
        world.children[0]._received(garbage)
        await until(lambda: supervisor.status.started == 2 and supervisor.status.state is State.SERVING)
        assert world.log.count("take over") == 1


def test_what_a_worker_is_told_comes_out_as_it_went_in() -> None:
    topics = (
        Topic(1, "a", Quality.SQ, 7, Framing.RAW, sources=("10.0.0.0/8",), rate=100, overflow=Overflow.PASS),
        Topic(2, "b"),
    )
    groups = (Group("g", (Member("10.0.0.1", 1, "02:00:00:00:00:01", "10.0.0.9"), Member("10.0.0.2", 2))),)
    told = SetUp(
        "udp",
        ((3, 4), (5, 6)),
        7,
        Share(8, 64, 9),
        QualityConfig(worker_sq=True, cpus_sq=(1,)),
        Limits(batch=32),
        topics,
        {1: 1, 2: 2, 300: 256},
        (Route(topics[0], 300, groups),),
    )
    frames = Frames()
    stream = encode(Request(1, Op.SET_UP, told.to_fields())) + encode(Request(2, Op.PING))
    messages = [message for at in range(len(stream)) for message in frames.feed(stream[at : at + 1])]
    first, second = map(protocol.request_in, messages)
    assert SetUp.of_fields(first.fields) == told
    assert second == Request(2, Op.PING)
    with pytest.raises(LocalError, match="does not know"):
        protocol.request_in({"id": 3, "op": "dance"})
