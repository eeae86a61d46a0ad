"""Every registry keeps the same promises: one in memory, a real etcd, and etcd from another thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.etcd import Cluster
from support.ports import free_ports
from support.waiting import LIMIT

from tempos._awaitables import in_time
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, FleetConfig, Origin
from tempos_broker.fleet.aside import Aside
from tempos_broker.fleet.etcd import Etcd
from tempos_broker.fleet.memory import LocalRegistry, Memory
from tempos_broker.fleet.registry import Away, Change, Compacted, LeaseGone, Registry, Write
from tempos_broker.paths import NoFastPath
from tempos_broker.topics.orders import Conflict

Make = Callable[[], Registry]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("etcd"))
    made.start()
    yield made
    made.end()


@asynccontextmanager
async def registries(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes registries over one store, which is empty."""
    made: list[Registry] = []
    prefix = f"/tempos-test/{os.urandom(6).hex()}/"
    memory = Memory()

    def make() -> Registry:
        registry: Registry
        if kind == "memory":
            registry = LocalRegistry(memory, lambda: 0.001)
        else:
            endpoints = request.getfixturevalue("cluster").endpoints
            if kind == "etcd":
                registry = Etcd(endpoints, prefix, quiet=0.5)
            else:
                registry = Aside(lambda: Etcd(endpoints, prefix))
        made.append(registry)
        return registry

    try:
        yield make
    finally:
        for each in made:
            await each.close()


KINDS = pytest.mark.parametrize("kind", ["memory", "etcd", "aside"])


async def seen(registry: Registry, after: int, number: int) -> list[Change]:
    """So many changes behind a revision."""
    changes: list[Change] = []

    async def read() -> None:
        async with contextlib.aclosing(registry.watch(after)) as watch:  # type: ignore[type-var]
            async for some in watch:
                changes.extend(some)
                if len(changes) >= number:
                    return

    await in_time(read(), LIMIT)
    return changes


@KINDS
async def test_what_was_written_is_listed_and_watched(kind: str, request: pytest.FixtureRequest) -> None:
    async with registries(kind, request) as make:
        one, two = make(), make()
        before = await two.list()
        assert before.entries == {}
        first = await one.write([Write("a", b"1"), Write("b", b"\x00\xff")])
        second = await one.write([Write("a", None)])
        assert not first.refused
        assert second.revision > first.revision > before.revision
        changes = await seen(two, before.revision, 3)
        assert [(each.key, each.value) for each in changes] == [("a", b"1"), ("b", b"\x00\xff"), ("a", None)]
        assert {each.revision for each in changes} == {first.revision, second.revision}
        assert await seen(two, first.revision, 1) == changes[2:]
        listed = await two.list()
        assert {key: entry.value for key, entry in listed.entries.items()} == {"b": b"\x00\xff"}
        assert listed.entries["b"].revision == first.revision


@KINDS
async def test_what_is_not_as_expected_is_not_written(kind: str, request: pytest.FixtureRequest) -> None:
    async with registries(kind, request) as make:
        registry = make()
        first = await registry.write([Write("a", b"1", expect=0)])
        assert not first.refused
        late = Write("a", b"2", expect=first.revision - 1)
        written = await registry.write([late, Write("b", b"1", expect=0), Write("a", None, expect=1)][:2])
        assert list(written.refused) == [late]
        listed = await registry.list()
        assert {key: entry.value for key, entry in listed.entries.items()} == {"a": b"1", "b": b"1"}
        # Of what is wanted together all is written, or nothing.
        both = [late, Write("c", b"1", expect=0)]
        written = await registry.write(both, together=True)
        assert (list(written.refused), written.at) == (both, {})
        assert set((await registry.list()).entries) == {"a", "b"}
        gone = [Write("a", None, expect=first.revision), Write("c", b"1", expect=0)]
        assert not (await registry.write(gone, together=True)).refused
        assert set((await registry.list()).entries) == {"b", "c"}


@KINDS
async def test_more_than_one_transaction_holds(kind: str, request: pytest.FixtureRequest) -> None:
    async with registries(kind, request) as make:
        registry = make()
        before = await registry.list()
        written = await registry.write([Write(f"k{number}", b"x" * 300) for number in range(1000)])
        listed = await registry.list()
        assert len(listed.entries) == 1000
        assert {key: entry.revision for key, entry in listed.entries.items()} == written.at
        assert max(written.at.values()) == written.revision
        assert len(await seen(registry, before.revision, 1000)) == 1000


@KINDS
async def test_what_hangs_on_a_lease_goes_with_it(kind: str, request: pytest.FixtureRequest) -> None:
    async with registries(kind, request) as make:
        registry = make()
        lease, other = await registry.grant(2), await registry.grant(30)
        assert await registry.keep_alive(lease) > 0
        await registry.write([Write("a", b"1"), Write("b", b"1"), Write("c", b"1")], lease)
        # Who writes a key anew takes it over.
        taken = await registry.write([Write("b", b"2")], other)
        await registry.revoke(lease)
        gone = await seen(registry, taken.revision, 2)
        assert {(each.key, each.value) for each in gone} == {("a", None), ("c", None)}
        assert len({each.revision for each in gone}) == 1
        with pytest.raises(LeaseGone):
            await registry.keep_alive(lease)
        with pytest.raises(LeaseGone):
            await registry.write([Write("d", b"1")], lease)
        await registry.revoke(lease)
        assert set((await registry.list()).entries) == {"b"}


@KINDS
async def test_a_lease_that_nobody_keeps_alive_ends(kind: str, request: pytest.FixtureRequest) -> None:
    async with registries(kind, request) as make:
        registry = make()
        lease = await registry.grant(2)
        written = await registry.write([Write("a", b"1")], lease)
        assert [(each.key, each.value) for each in await seen(registry, written.revision, 1)] == [("a", None)]


async def test_a_watch_of_what_is_compacted_says_so(cluster: Cluster) -> None:
    registry = Etcd(cluster.endpoints, "/tempos-test/compacted/")
    memory = Memory()
    local = LocalRegistry(memory)
    try:
        for each in (registry, local):
            before = (await each.list()).revision
            for _ in range(3):
                written = await each.write([Write("a", b"1")])
            if each is registry:
                await registry._call("kv/compaction", {"revision": written.revision})
            else:
                memory.compact()
            with pytest.raises(Compacted):
                await seen(each, before, 1)
    finally:
        await registry.close()


async def test_who_asks_again_is_told_when_what_it_wrote_came_to_hold(cluster: Cluster) -> None:
    registry = Etcd(cluster.endpoints, "/tempos-test/again/")
    try:
        wanted = [Write("a", b"1", expect=0), Write("b", b"1", expect=0)]
        first = await registry.write(wanted)
        await registry.write([Write("else", b"1")])
        # As after an answer that was lost.
        again = await registry.write(wanted)
        assert (list(again.refused), again.at) == ([], first.at)
        gone = [Write(each.key, None, expect=first.revision) for each in wanted]
        await registry.write(gone)
        assert not (await registry.write(gone)).refused
    finally:
        await registry.close()


async def test_calls_at_once_each_find_the_endpoint_that_answers(cluster: Cluster) -> None:
    nowhere = [f"http://127.0.0.1:{port}" for port in free_ports(2)]
    registry = Etcd([*nowhere, *cluster.endpoints], "/tempos-test/at-once/")
    try:
        assert len(await asyncio.gather(*(registry.list() for _ in range(12)))) == 12
        # And it is asked first from then on.
        assert registry._at == 2
    finally:
        await registry.close()


async def _nothing(work: Awaitable[object]) -> None:
    with pytest.raises(Away):
        await in_time(work, LIMIT)


async def test_a_store_that_is_gone_and_comes_back(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.start()
    registry = Etcd(cluster.endpoints, "/tempos-test/gone/", answer=0.5)
    try:
        lease = await registry.grant(30)
        first = await registry.write([Write("a", b"1")], lease)
        watching = asyncio.ensure_future(seen(registry, first.revision, 1))
        cluster.end()
        for call in (registry.list(), registry.grant(5), registry.write([Write("b", b"1")])):
            await _nothing(call)
        await _nothing(watching)
        cluster.start()
        second = await registry.write([Write("b", b"1")], lease)
        # Also what changed while nobody listened, by revision.
        assert [each.key for each in await seen(registry, first.revision, 1)] == ["b"]
        assert second.revision > first.revision
    finally:
        await registry.close()
        cluster.end()


async def test_of_three_nodes_one_may_be_gone_or_stand_still(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 3)
    cluster.start()
    registry = Etcd(cluster.endpoints, "/tempos-test/three/", answer=0.7, quiet=0.7)
    seen_of: list[Change] = []

    async def watch() -> None:
        """From where it was, whenever no node answers for a while: as a broker does."""
        while True:
            try:
                async for changes in registry.watch(max((each.revision for each in seen_of), default=0)):
                    seen_of.extend(changes)
            except Away:
                await asyncio.sleep(0)

    watching = asyncio.ensure_future(watch())
    try:
        written = []

        async def write(key: str) -> None:
            """Until it is in force: an election takes its time."""
            for _ in range(20):
                try:
                    await registry.write([Write(key, b"1")])
                except Away:
                    continue
                written.append(key)
                return
            pytest.fail("no majority")

        await write("whole")
        for number, (how, back) in enumerate([
            (lambda n: cluster.end(n), lambda n: cluster.start(n)),
            (lambda n: cluster.signal(n, signal.SIGSTOP), lambda n: cluster.signal(n, signal.SIGCONT)),
        ]):  # fmt: skip
            for node in range(3):
                how(node)
                await write(f"{number}-{node}")
                back(node)
        await in_time(_until(lambda: {each.key for each in seen_of} >= set(written)), LIMIT)
        # A write whose answer was lost is written again, with a revision of its own.
        assert len({(each.key, each.revision) for each in seen_of}) == len(seen_of)
        revisions: Sequence[int] = [each.revision for each in seen_of]
        assert list(revisions) == sorted(revisions)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await registry.close()
        cluster.end()


def _broker(number: int, ports: list[int], registry: Registry) -> Broker:
    config = BrokerConfig(
        (), (f"127.0.79.{number}",), *ports, api_port=0, name=f"b{number}",
        fleet=FleetConfig("both", ("http://nowhere:1",), lease=5, share=("topics", "keys")),
    )  # fmt: skip
    return Broker(config, NoFastPath("a test"), registry=registry)


@KINDS
async def test_what_is_made_at_run_time_is_had_by_all_of_a_fleet(
    kind: str, request: pytest.FixtureRequest
) -> None:
    def made(broker: Broker) -> set[tuple[str, bytes]]:
        return {(client.id, client.key) for client in broker._clients.made()}

    def topics(broker: Broker) -> set[str]:
        return {each["options"]["name"] for each in broker.documents.options(Origin.RUN_TIME)}

    async with registries(kind, request) as make:
        ports, store = free_ports(2), make()
        async with _broker(1, ports, make()) as one:
            async with _broker(2, ports, make()) as two:
                await in_time(
                    _until(
                        lambda: all(each.fleet and len(each.fleet.view.brokers) == 2 for each in (one, two))
                    ),
                    LIMIT,
                )
                await one.add_topic({"name": "t"})
                for number, client in enumerate("abc"):
                    await one.add_client({"id": client, "key": bytes([number] * 16).hex()})
                await two.set_client("a", {"key": (b"x" * 16).hex()})
                await two.remove_client("b")
                with pytest.raises(Conflict, match="key is that of client 'a'"):
                    await one.set_client("c", {"key": (b"x" * 16).hex()})
                wanted = {("a", b"x" * 16), ("c", bytes([2] * 16))}
                assert made(one) == made(two) == wanted
                assert topics(one) == topics(two) == {"t"}
            # Whoever comes later has the same, without what is removed.
            await one.remove_client("c")
            async with _broker(3, ports, make()) as three:
                await in_time(_until(lambda: bool(made(three)) and bool(topics(three))), LIMIT)
                assert made(three) == made(one) == {("a", b"x" * 16)}
        entries = (await store.list()).entries
        kept = {
            name: json.loads(entry.value) for name, entry in entries.items() if name.startswith("clients/")
        }
        assert {name: each.keys() for name, each in kept.items()} == {
            "clients/a": {"options"}, "clients/b": {"removed"}, "clients/c": {"removed"},
        }  # fmt: skip


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.02)
