"""What the state costs: work for what has changed, in slices that nobody waits for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_ports

from tempos import Framing, Topic
from tempos._rows import Rows
from tempos_broker import broker as broker_module
from tempos_broker.account.accounts import Account, Holder
from tempos_broker.account.exporting import ACCOUNTS, Pieces
from tempos_broker.account.ledger import Ledger
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ControlConfig, StaticMember, TopicConfig
from tempos_broker.lives import keeper
from tempos_broker.lives.memory import read
from tempos_broker.lives.store import Store, Whole, _Rows
from tempos_broker.paths import NoFastPath
from tempos_broker.routes import AT_ONCE
from tempos_broker.tickets import FileTickets

from .test_broker import Client, FakeFastPath, until

MEMBERS = 4
#: Of two groups they are more than are told at once.
LARGE = 3 * keeper.MEMBERS_AT_ONCE // 4


class Written:
    """The ids of the topics of each writing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[list[int]] = []
        self.exported = self.looked = 0
        #: Who has it lets nothing be written but what swaps do.
        self.turn = asyncio.Lock()
        write, export, members = Store._write, Ledger.export, keeper.Keeper._members
        save = keeper.Keeper._save_moved

        async def saving(of: keeper.Keeper) -> None:
            async with self.turn:
                await save(of)

        def writing(store: Store, values: Sequence[tuple[str, str]], rows: Any) -> None:
            write(store, values, rows)
            self.all.append([row[0] for row in (*rows.topics, *rows.steps)])

        def exporting(ledger: Ledger, *args: Any) -> Any:
            self.exported += 1
            return export(ledger, *args)

        def looking(of: keeper.Keeper, topic: int) -> Any:
            self.looked += 1
            return members(of, topic)

        monkeypatch.setattr(keeper.Keeper, "_save_moved", saving)
        monkeypatch.setattr(keeper.Keeper, "_members", looking)
        monkeypatch.setattr(Store, "_write", writing)
        monkeypatch.setattr(Ledger, "export", exporting)

    @contextlib.asynccontextmanager
    async def held(self, *rows: int) -> AsyncIterator[None]:
        """No round begins meanwhile, and it ends once topics have been written so often in their own turn."""
        async with self.turn:
            self.all.clear()
            yield
            await until(lambda: [topic for some in self.all for topic in some] == [*rows])

    async def rounds(self, count: int = 3) -> list[int]:
        """What is written from now on, until so many writings had nothing to say of any topic."""
        self.all.clear()
        await until(lambda: sum(not rows for rows in self.all) >= count)
        return [topic for rows in self.all for topic in rows]


@pytest.mark.parametrize("topics", [10, 200])
async def test_only_what_has_changed_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topics: int
) -> None:
    monkeypatch.setattr(keeper, "SAVE_EVERY", 0.02)
    monkeypatch.setattr(keeper, "PAUSE", 0.0)
    data, control = free_ports(2)
    config = BrokerConfig(
        tuple(
            TopicConfig(
                Topic(id_, f"topic-{id_}", framing=Framing.RAW),
                tuple(StaticMember("127.0.0.1", 20_000 + number, "g") for number in range(MEMBERS)),
            )
            for id_ in range(1, topics + 1)
        ),
        listen=("127.0.0.1",),
        data_port=data,
        control_port=control,
        api_port=0,
        control=ControlConfig(lease=10.0, heartbeat=2.5),
    )
    async with Broker(config, FakeFastPath(), store=Store.open(tmp_path / "state")) as broker:
        written = Written(monkeypatch)
        await written.rounds()
        before = written.exported
        assert await written.rounds() == [], "nobody does anything"
        assert written.exported == before
        with contextlib.closing(Client(broker)) as client:
            client.publish(b"\x03event")
            await until(lambda: any(3 in rows for rows in written.all))
            assert set(await written.rounds()) <= {3}
            before = written.exported
            async with written.held(5, 5):
                client.ask("subscribe", topic="topic-5", group="h", port=client.port)
                await client.answer()
                assert written.all == [[5], [5]], "what it wants is written with its route"
            assert set(await written.rounds()) <= {5}
            # The first change of a topic in a life writes it whole: nothing of it was kept in mind.
            assert written.exported - before == 2
            before = written.exported
            looked = written.looked
            async with written.held(5, 5):
                client.ask("unsubscribe", topic="topic-5", group="h", port=client.port)
                await client.answer()
            assert set(await written.rounds()) <= {5}
            # Before and after the swap steps alone, and once all that there is.
            assert written.exported - before == 1
            # Who its members are is looked at before the swap, and for all that there is; not after it.
            assert written.looked - looked == 2
            client.ask("subscribe", topic="topic-5", group="h", port=client.port)
            await client.answer()
            await written.rounds()
            for _ in range(5):
                client.ask("heartbeat", port=client.port, received=[])
                await client.answer()
            assert await written.rounds() == [], "a lease that is renewed is no news"


async def test_what_there_is_no_time_for_at_the_end_is_as_a_kill_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of thousands of topics that all have changed of late; counters are exact without it."""
    topics = range(1, 9)
    data, control = free_ports(2)
    config = BrokerConfig(
        tuple(
            TopicConfig(Topic(id_, f"topic-{id_}"), (StaticMember("127.0.0.1", 9, "g"),)) for id_ in topics
        ),
        listen=("127.0.0.1",),
        data_port=data,
        control_port=control,
        api_port=0,
    )
    monkeypatch.setattr(keeper, "SAVE_EVERY", 3600.0)
    monkeypatch.setattr(keeper, "AT_ONCE", 1)
    monkeypatch.setattr(broker_module, "SAVE", 0.0)
    tickets = FileTickets(tmp_path / "tickets", Rows())
    async with Broker(config, NoFastPath("", tickets), store=Store.open(tmp_path / "state")) as broker:
        with contextlib.closing(Client(broker)) as client:
            # The first writing of this life.
            await asyncio.sleep(0)
            for id_ in topics:
                client.publish(bytes([id_, 0x10, 0, 0]) + bytes(20) + b"body")
            await until(lambda: all(each["received"] == 1 for each in broker.status()["topics"]))
        written = Written(monkeypatch)
    assert [rows for rows in written.all if rows] == []
    assert "8 topics have changed of late, too many to be written while stopping" in caplog.text
    async with Broker(config, NoFastPath("", tickets), store=Store.open(tmp_path / "state")) as broker:
        assert [each["received"] for each in broker.status()["topics"]] == [1] * len(topics)
        assert all(each["balanced"] for each in broker.ledger()["topics"])
    tickets.close()


async def test_a_change_of_many_topics_is_few_transactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it waits for in the kernel it waits for together."""
    topics = 40
    data, control = free_ports(2)
    config = BrokerConfig(
        tuple(TopicConfig(Topic(id_, f"topic-{id_}")) for id_ in range(1, topics + 1)),
        listen=("127.0.0.1",),
        data_port=data,
        control_port=control,
        api_port=0,
    )
    fast = FakeFastPath()
    async with Broker(config, fast, store=Store.open(tmp_path / "state")) as broker:
        ids = list(range(1, topics + 1))
        for id_ in ids:
            broker._registry.subscribe(f"topic-{id_}", "g", ("127.0.0.1", 5000), 7, time.monotonic())
        written = Written(monkeypatch)
        fast.gate.clear()
        changing = asyncio.create_task(broker._routes.swap_all(ids))
        await until(lambda: sum(bool(rows) for rows in written.all) > 0)
        fast.gate.set()
        await changing
        # Each topic before its swap and after it, as many at once as are swapped at a time.
        assert sorted(topic for rows in written.all for topic in rows) == sorted(2 * ids)
        assert sum(bool(rows) for rows in written.all) <= 2 * -(-topics // AT_ONCE) + 4
        assert {route.topic.id for route in fast.installed} == set(ids)


async def test_what_goes_wrong_once_is_told_and_what_comes_next_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "SAVE_EVERY", 0.02)
    data, control = free_ports(2)
    config = BrokerConfig(
        (TopicConfig(Topic(1, "one", framing=Framing.RAW), ()),),
        listen=("127.0.0.1",), data_port=data, control_port=control, api_port=0,
    )  # fmt: skip
    async with Broker(config, FakeFastPath(), store=Store.open(tmp_path / "state")):
        wrong = True

        def failing(self: keeper.Keeper) -> list[int]:
            if wrong:
                raise KeyError("what nobody thought of")
            return moved(self)

        moved = keeper.Keeper._moved
        monkeypatch.setattr(keeper.Keeper, "_moved", failing)
        await until(lambda: "could not be written" in caplog.text)
        wrong = False
        written = Written(monkeypatch)
        await until(lambda: bool(written.all))
        assert caplog.text.count("could not be written") == 1
        monkeypatch.setattr(keeper.Keeper, "_moved", moved)


async def test_what_is_no_more_may_be_written_by_two_at_once(tmp_path: Path) -> None:
    """Whoever comes second finds that it is done, and is no failure."""
    data, control = free_ports(2)
    config = BrokerConfig((), listen=("127.0.0.1",), data_port=data, control_port=control)
    async with Broker(config, FakeFastPath(), store=Store.open(tmp_path / "state.db")) as broker:
        put = broker._past.keeper.put
        assert await put("kind", {"key": 1})
        assert await asyncio.gather(*(put("kind", {"key": None}) for _ in range(3))) == [True] * 3
        assert not broker._past.keeper._unsaved_things


async def test_a_large_topic_is_told_in_pieces_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than some members between two turns of the loop; and what is told is what is."""
    monkeypatch.setattr(keeper, "SAVE_EVERY", 0.02)
    monkeypatch.setattr(keeper, "PAUSE", 0.0)
    data, control = free_ports(2)
    config = BrokerConfig(
        (TopicConfig(Topic(1, "large")), TopicConfig(Topic(2, "small"))), listen=("127.0.0.1",),
        data_port=data, control_port=control, api_port=0, control=ControlConfig(lease=60.0, heartbeat=15.0),
    )  # fmt: skip
    turns, told, whole = 0, [], []
    told_one, export = Account.export, Ledger.export

    def telling(account: Account) -> Any:
        told.append(turns)
        return told_one(account)

    def exporting(ledger: Ledger, topic: int, *args: Any) -> Any:
        whole.append(topic)
        return export(ledger, topic, *args)

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    store = Store.open(tmp_path / "state")
    async with Broker(config, FakeFastPath(), store=store) as broker:
        holders = {}
        for group in ("a", "b", "c"):
            for number in range(LARGE):
                endpoint = f"127.0.{ord(group)}.{number + 1}", 5000
                broker._registry.subscribe("large", group, endpoint, number, time.monotonic())
                holders[group, number] = Holder(*endpoint, number)
        await broker._routes.swap_all([1])
        written = Written(monkeypatch)
        await written.rounds()
        monkeypatch.setattr(Account, "export", telling)
        monkeypatch.setattr(Ledger, "export", exporting)
        turning = asyncio.create_task(turn())
        for count in range(1, 4):
            written.all.clear()
            for (group, _), holder in holders.items():
                broker._ledger.report(1, group, holder, broker._ledger.epoch(1), count, full=True)
            # It counts as unchanged from when it begins to be told, and again once it is written.
            await until(lambda: any(1 in rows for rows in written.all) and 1 not in broker._ledger.changed)
        turning.cancel()
        assert len(told) >= 3 * len(holders)
        assert max(Counter(told).values()) <= 2 * ACCOUNTS, "members were told without letting others on"
        assert 1 not in whole
        monkeypatch.undo()
        now = broker._ledger.export(1, 0.0)
        told_ledger = broker._ledger.export_in_pieces(1, 0.0)
        assert json.loads(_text(told_ledger)) == json.loads(json.dumps(now))
        # As a kill leaves it.
        for ending in ("", "-wal"):
            shutil.copy(f"{tmp_path}/state{ending}", f"{tmp_path}/killed{ending}")
    killed = Store.open(tmp_path / "killed")
    memory = read(killed.stored.topics[1])
    await killed.close()
    assert memory.ledger == json.loads(json.dumps(now))
    assert {(each.group, each.client) for each in memory.members} == set(holders)


def _text(pieces: Pieces) -> str:
    while True:
        try:
            next(pieces)
        except StopIteration as stop:
            text: str = stop.value
            return text


async def test_a_large_topic_that_changes_all_the_time_is_stored_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was told while it changed is not written; after some tries it is told at once."""
    monkeypatch.setattr(keeper, "SAVE_EVERY", 0.01)
    monkeypatch.setattr(keeper, "PAUSE", 0.0)
    data, control = free_ports(2)
    config = BrokerConfig(
        (TopicConfig(Topic(1, "large")),), listen=("127.0.0.1",),
        data_port=data, control_port=control, api_port=0, control=ControlConfig(lease=60.0, heartbeat=15.0),
    )  # fmt: skip
    in_pieces, swaps = Ledger.export_in_pieces, 0
    async with Broker(config, FakeFastPath(), store=Store.open(tmp_path / "state")) as broker:
        for number in range(LARGE):
            for group, network in (("g", 0), ("i", 2)):
                endpoint = f"127.0.{network}.{number + 1}", 5000
                broker._registry.subscribe("large", group, endpoint, 7, time.monotonic())
        await broker._routes.swap_all([1])
        wholes: list[tuple[int, str]] = []
        add = _Rows.add

        def adding(rows: _Rows, change: Any) -> None:
            if isinstance(change, Whole):
                wholes.append((swaps, change.document if isinstance(change.document, str) else "at once"))
            add(rows, change)

        def changing(ledger: Ledger, topic: int, now: float) -> Pieces:
            """Somebody comes in the middle of each telling."""
            nonlocal swaps
            pieces = in_pieces(ledger, topic, now)
            yield next(pieces)
            before = ledger.shape(topic)
            swaps += 1
            broker._registry.subscribe("large", "h", (f"127.0.1.{swaps}", 5000), 7, time.monotonic())
            coming.append(asyncio.get_running_loop().create_task(broker._routes.swap_all([1])))
            while ledger.shape(topic) == before:
                yield ACCOUNTS
            return (yield from pieces)

        coming: list[asyncio.Task[Any]] = []
        monkeypatch.setattr(_Rows, "add", adding)
        monkeypatch.setattr(Ledger, "export_in_pieces", changing)
        epoch = broker._ledger.epoch(1)
        broker._ledger.report(1, "g", Holder("127.0.0.1", 5000, 7), epoch, 1, full=True)
        await until(lambda: bool(wholes))
        assert wholes[0] == (keeper.TRIES, "at once"), "a text of two states was written"
        monkeypatch.setattr(Ledger, "export_in_pieces", in_pieces)
        await asyncio.gather(*coming)
