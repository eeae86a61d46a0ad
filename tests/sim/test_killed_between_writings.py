"""Killed between any two writings of the state, a broker is followed by one that goes on where it was.

What is stored and the counters are taken as they are after each writing, while members come and go, and get
events. From each such moment a next broker starts, as after a kill: whoever was answered that
it is a member is one, whoever was answered that it is none is not, and of the one under way either is right:
of a goodbye to several topics, which is not answered yet and will be asked again, in each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_ports

from tempos import Framing, Reason, Route, Topic
from tempos_broker.account import exporting
from tempos_broker.account.accounts import Holder
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ControlConfig, StaticMember, TopicConfig
from tempos_broker.lives import keeper
from tempos_broker.lives.steps import applied, difference
from tempos_broker.lives.store import SCHEMA, Store, Thing, Whole
from tempos_broker.paths import LocalTickets, NoFastPath, PathChoice, TicketsAlone
from tempos_broker.tickets import CountedTickets

from .test_broker import Client

ALPHA, BETA = Topic(1, "alpha"), Topic(2, "beta", framing=Framing.RAW)
EVENT = bytes([1, 0x10, 0, 0]) + bytes(20) + b"body"
LEASE = 60.0
OPERATIONS = 40


@dataclass(frozen=True)
class Moment:
    """A state file and the tickets after a writing; ``members`` before and after what was under way."""

    file: Path
    tickets: dict[int, int]
    members: tuple[frozenset[tuple[int, str, int]], frozenset[tuple[int, str, int]]]
    epochs: tuple[int, int]


#: Of all lives: to clients one that moved is another one.
PORTS = free_ports(2)


def config(ports: tuple[int, ...]) -> BrokerConfig:
    static = (StaticMember("127.0.0.1", 20_000, "g"),)
    return BrokerConfig(
        (TopicConfig(ALPHA, static), TopicConfig(BETA)), listen=("127.0.0.1",), data_port=ports[0],
        control_port=ports[1], api_port=0, control=ControlConfig(lease=LEASE, heartbeat=LEASE / 4),
    )  # fmt: skip


def members(broker: Broker) -> frozenset[tuple[int, str, int]]:
    """Topic, group and port of all that are in force."""
    return frozenset(
        (topic["id"], group["name"], member["port"])
        for topic in broker.status()["topics"]
        for group in topic["groups"]
        for member in group["members"]
        if not member["static"]
    )


class Life:
    """A broker with five clients, and what was stored after each writing."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.moments: list[Moment] = []
        self.tickets = LocalTickets()
        self.now: frozenset[tuple[int, str, int]] = frozenset()
        self.next = self.now
        self.broker: Broker

    @contextlib.contextmanager
    def watched(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        write = Store._write

        def writing(store: Store, *rows: Any) -> None:
            write(store, *rows)
            file = self.folder / f"{len(self.moments)}"
            for ending in ("", "-wal"):
                shutil.copy(f"{store.path}{ending}", f"{file}{ending}")
            epochs = tuple(state.route.epoch for state in self.broker._routes.states.values())
            self.moments.append(
                Moment(file, dict(self.tickets._next), (self.now, self.next), epochs)  # type: ignore[arg-type]
            )

        with monkeypatch.context() as patched:
            patched.setattr(Store, "_write", writing)
            yield

    async def operate(self, clients: list[Client]) -> None:
        """Something that may change the state, and its answer."""
        client, topic = self.rng.choice(clients), self.rng.choice((ALPHA, BETA))
        mine = [each for each in self.now if each[0] == topic.id and each[2] == client.port]
        what = self.rng.choice(("join", "join", "leave", "goodbye", "heartbeat", "publish"))
        if what == "join" and not mine:
            place = topic.id, self.rng.choice(("g", "h", "i")), client.port
            self.next = self.now | {place}
            client.ask("subscribe", topic=topic.name, group=place[1], port=client.port)
        elif what == "leave" and mine:
            self.next = self.now - set(mine)
            client.ask("unsubscribe", topic=topic.name, group=mine[0][1], port=client.port)
        elif what == "goodbye" and any(each[2] == client.port for each in self.now):
            self.next = frozenset(each for each in self.now if each[2] != client.port)
            client.ask("goodbye", port=client.port, received=[])
        elif what == "heartbeat" and any(each[2] == client.port for each in self.now):
            client.ask("heartbeat", port=client.port, received=[])
        else:
            for _ in range(self.rng.randrange(9)):
                client.publish(EVENT if topic is ALPHA else b"\x02event")
            return
        await client.answer()
        self.now = self.next


def make_all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two members are so many that they are told one by one."""
    monkeypatch.setattr(keeper, "MEMBERS_AT_ONCE", 1)
    monkeypatch.setattr(keeper, "PAUSE", 0.001)
    for module in (keeper, exporting):
        monkeypatch.setattr(module, "ACCOUNTS", 1)


@pytest.mark.parametrize(("seed", "large"), [(0, False), (1, False), (2, False), (3, True), (4, True)])
async def test_wherever_it_was_killed_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, large: bool
) -> None:
    monkeypatch.setattr(keeper, "SAVE_EVERY", 0.03)
    if large:
        make_all_large(monkeypatch)
    life = Life(tmp_path, seed)
    store = Store.open(tmp_path / "state")
    life.broker = Broker(config(PORTS), NoFastPath("off", life.tickets), store=store)
    with contextlib.ExitStack() as stack:
        async with life.broker:
            clients = [stack.enter_context(contextlib.closing(Client(life.broker))) for _ in range(5)]
            stack.enter_context(life.watched(monkeypatch))
            for _ in range(OPERATIONS):
                await life.operate(clients)
            instance = life.broker.instance
            assert members(life.broker) == life.now
    monkeypatch.undo()
    rows = [_counts(moment.file) for moment in life.moments]
    assert max(steps for _, steps in rows) > 1, "some were killed with steps beside the document"
    after = config(PORTS)
    for moment in life.moments:
        tickets = LocalTickets()
        tickets._next = dict(moment.tickets)
        async with Broker(after, NoFastPath("off", tickets), store=Store.open(moment.file)) as broker:
            before, behind = moment.members
            assert before & behind <= members(broker) <= before | behind, moment.file
            assert broker.instance == instance
            states = broker._routes.states.values()
            assert all(s.route.epoch >= e for s, e in zip(states, moment.epochs, strict=True))
            assert broker.ledger()["balanced"], broker.ledger()


@pytest.mark.parametrize("lost", ["nothing", "the counters", "what is stored"])
async def test_one_that_is_killed_before_its_life_began_gave_no_epoch_that_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Packets may carry it already: routes are in force before the topics are written down.

    Either of what is stored and the counters is enough to know that.
    """
    first, tickets = Store.open(tmp_path / "state"), LocalTickets()
    async with Broker(config(PORTS), NoFastPath("off", tickets), store=first):
        pass
    begin, given = keeper.Keeper.begin, []

    async def begins(self: keeper.Keeper, *ended: Any, **how: Any) -> None:
        for ending in ("", "-wal"):
            shutil.copy(f"{tmp_path}/state{ending}", f"{tmp_path}/killed{ending}")
        given.append((dict(tickets._next), {s.route.topic.id: s.route.epoch for s in self._states.values()}))
        await begin(self, *ended, **how)

    monkeypatch.setattr(keeper.Keeper, "begin", begins)
    shutil.copy(tmp_path / "state", tmp_path / "before")
    # Its counters are nobody's.
    tickets = LocalTickets()
    store = Store.open(tmp_path / "state")
    async with Broker(config(PORTS), NoFastPath("off", tickets), store=store):
        pass
    monkeypatch.undo()
    [(counters, epochs)] = given
    assert epochs[ALPHA.id] > 1, "the second start gave an epoch of its own"
    left = LocalTickets()
    left._next = {} if lost == "the counters" else counters
    file = tmp_path / ("before" if lost == "what is stored" else "killed")
    async with Broker(config(PORTS), NoFastPath("off", left), store=Store.open(file)) as broker:
        for topic, state in broker._routes.states.items():
            assert not state.route.groups or state.route.epoch > epochs[topic]
        assert broker.ledger()["balanced"]


class Passing(NoFastPath):
    """A fast path whose counters are never twice the same: events go by, handed up or forwarded at once."""

    passed = forwarded = 0

    def counters(self, topics: Iterable[int] | None = None) -> dict[int, dict[Reason, int]]:
        self.passed += 1
        return {ALPHA.id: {Reason.NO_ROUTE: self.passed, Reason.FORWARDED: self.forwarded}}

    async def install_all(self, routes: Sequence[Route]) -> Sequence[PathChoice]:
        for route in routes:
            self.forwarded += 3
            self.tickets.draw(route.topic.id, route.epoch, 0, 3)
        return await super().install_all(routes)


async def test_what_the_former_slow_path_sent_is_known_while_events_go_by(tmp_path: Path) -> None:
    """The former life had no fast path, so nobody but its tickets says how many those were."""
    former = LocalTickets()
    store = Store.open(tmp_path / "state")
    async with Broker(config(PORTS), NoFastPath("off", former), store=store) as broker:
        with contextlib.closing(Client(broker)) as client:
            for _ in range(7):
                client.publish(EVENT)
            while broker.ledger()["topics"][0]["slow"] < 7:
                await asyncio.sleep(0.001)
    fast = Passing("a fast path", LocalTickets())
    drawn = CountedTickets(fast.tickets, LocalTickets())
    store, elsewhere = Store.open(tmp_path / "state"), [TicketsAlone(former)]
    async with Broker(config(PORTS), fast, store=store, drawn=drawn, elsewhere=elsewhere) as broker:
        alpha = broker.ledger()["topics"][0]
        forwarded = fast.forwarded
        assert (alpha["slow"], alpha["fast"], alpha["groups"][0]["tickets"]) == (7, forwarded, 7 + forwarded)
        assert alpha["balanced"], alpha["problems"]


def _counts(file: Path) -> tuple[int, int]:
    """Documents and steps in a state file."""
    copy = file.with_name(f"{file.name}-looked-at")
    for ending in ("", "-wal"):
        shutil.copy(f"{file}{ending}", f"{copy}{ending}")
    with contextlib.closing(sqlite3.connect(copy)) as database:
        return tuple(  # type: ignore[return-value]
            database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("topic", "step")
        )


async def test_a_life_without_state_in_between_is_in_no_account(tmp_path: Path) -> None:
    """It draws from the same counters as the one before, whose account the one behind it takes up."""
    tickets = LocalTickets()
    for number, (kept, sent) in enumerate([(True, 3), (False, 7), (True, 2)]):
        store = Store.open(tmp_path / "state") if kept else None
        async with Broker(config(PORTS), NoFastPath("off", tickets), store=store) as broker:
            with contextlib.closing(Client(broker)) as client:
                here = broker.ledger()["topics"][0]["slow"]
                assert here == (0, 0, 3)[number]
                for _ in range(sent):
                    client.publish(EVENT)
                while broker.ledger()["topics"][0]["slow"] < here + sent:
                    await asyncio.sleep(0.001)
            alpha = broker.ledger()["topics"][0]
            assert (alpha["slow"], alpha["groups"][0]["tickets"]) == (here + sent, here + sent)
            assert alpha["balanced"], alpha["problems"]


def test_a_route_that_follows_needs_no_more_than_what_differs() -> None:
    rng = random.Random(1)
    old: list[tuple[str, tuple[Holder, ...]]] = []
    for _ in range(500):
        new = [(name, tuple(h for h in holders if rng.random() < 0.9)) for name, holders in old]
        new = [(name, holders) for name, holders in new if holders]
        for _ in range(rng.randrange(3)):
            name, holder = rng.choice("ghi"), _holder(rng)
            groups = dict(new)
            if holder not in groups.get(name, ()):
                groups[name] = (*groups.get(name, ()), holder)
            new = list(groups.items())
        if rng.random() < 0.1:
            rng.shuffle(new)
        assert applied(old, difference(old, new)) == new
        old = new
    many = [("g", tuple(_holder(rng) for _ in range(200)))]
    more = [("g", (*many[0][1], Holder("10.0.0.9", 9, 9)))]
    assert difference(many, more) == [["g", [], [["10.0.0.9", 9, 9]]]]


def _holder(rng: random.Random) -> Holder:
    return Holder("10.0.0.1", rng.randint(1, 65535), rng.randint(1, 9))


async def test_a_file_of_the_schema_before_is_brought_forward(tmp_path: Path) -> None:
    """Whoever installs this version has its members and accounts still."""
    path = tmp_path / "state"
    store = Store.open(path)
    assert await store.save([Whole(1, "alpha", 7, 0, {"name": "alpha"})])
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript("DROP TABLE step; DROP TABLE thing; PRAGMA user_version = 1")
    store = Store.open(path)
    assert store.stored.epochs == {1: 7}
    assert await store.save([Thing("kind", "key", [1]), Thing("kind", "other", 2), Thing("more", "key", 3)])
    assert await store.save([Thing("kind", "other", None)])
    await store.close()
    store = Store.open(path)
    assert store.stored.things == {"kind": {"key": [1]}, "more": {"key": 3}}
    assert store.stored.topics == {1: {"name": "alpha"}}
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
    assert not await asyncio.to_thread(lambda: list(tmp_path.glob("*.broken-*")))
