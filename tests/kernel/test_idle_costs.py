"""What an idle broker asks of the kernel about its fast path: no more for many topics than for few."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.waiting import LIMIT

from tempos._rows import Rows
from tempos_bench.nodes.topology import Topology
from tempos_bpf import links, maps, objects
from tempos_broker.__main__ import prepare_fast_path
from tempos_broker.broker import Broker
from tempos_broker.config.load import parse
from tempos_broker.lives.keeper import LOOKED_AT
from tempos_broker.lives.store import Store
from tempos_fastpath import offload as module
from tempos_fastpath.sources import Sources

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

#: How often what has changed is looked for, while the calls are counted.
SAVINGS = 5
#: Calls each time it asks what programs have noticed, four times a second: of losses, sources, tagged frames.
ALERT = 6


class Counting:
    """The library, by which the kernel is asked; each call counts but those that touch memory alone."""

    def __init__(self, library: Any, calls: Counter[str]) -> None:
        self._library = library
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        if not callable(function) or name.startswith("tempos_atomic_"):
            return function

        def call(*args: Any) -> Any:
            self._calls[name] += 1
            return function(*args)

        return call


HEAD = f"""
[broker]
name = "idle-{os.getpid()}"
listen = ["10.0.1.1", "10.0.2.1"]
api = "off"
[fastpath]
pin = false
"""
#: With a MAC that is given: no neighbour tells of itself while calls are counted.
TOPIC = """
[[topic]]
id = {0}
name = "t{0}"
[[topic.member]]
ip = "10.0.2.3"
port = 9001
mac = "02:00:00:00:00:99"
"""


def config(topics: int) -> str:
    return HEAD + "".join(map(TOPIC.format, range(1, topics + 1)))


async def idle(broker: Broker, store: Store, calls: Counter[str], topics: int) -> None:
    """Have it look a number of times whether there is anything to write down; what that took is counted."""
    saved = asyncio.Semaphore(0)
    values: Callable[[], Any] = store.values

    def saving() -> Any:
        saved.release()
        return values()

    store.values = saving
    while len(broker.documents.on_fast_path()) < topics:
        await saved.acquire()
    await saved.acquire()
    calls.clear()
    for _ in range(SAVINGS):
        await saved.acquire()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Of the library, by name, and how often it was asked what programs have noticed."""
    found: Counter[str] = Counter()
    for each in (links, maps, objects):
        monkeypatch.setattr(each, "lib", Counting(each.lib, found))
    # No look at everything because it is time.
    monkeypatch.setattr(module, "_REFRESH", 3600.0)
    due = Sources.due.fget
    assert due is not None

    def asked(sources: Sources) -> bool:
        found["alerts"] += 1
        return due(sources)

    monkeypatch.setattr(Sources, "due", property(asked))
    return found


@pytest.mark.parametrize("topics", [1, 2 * LOOKED_AT])
def test_an_idle_broker_looks_at_many_topics_by_one_call(
    topology: Topology, tmp_path: Path, calls: Counter[str], topics: int
) -> None:
    async def run() -> Counter[str]:
        told = parse(config(topics), "idle.toml")
        rows = Rows(told.limits.topics)
        store = Store.open(tmp_path / "state.db")
        fast = await prepare_fast_path(told, rows)
        try:
            async with Broker(told, fast, store=store, rows=rows) as broker:
                await asyncio.wait_for(idle(broker, store, calls, topics), LIMIT)
                return Counter(calls)
        finally:
            await fast.close()
            await store.close()

    counted = topology.broker.call(lambda: asyncio.run(run()))
    looks, alerts = counted.pop("tempos_map_sum_rows"), counted.pop("alerts")
    assert 0 < looks <= SAVINGS * -(-topics // LOOKED_AT), counted
    assert 0 < counted.total() <= ALERT * (alerts + 1), (counted, alerts)
