"""What lives of very many topics begin with: work once for those that are alike, waiting once for many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_ports

from tempos import Topic
from tempos._rows import Rows
from tempos_broker.account.ledger import Ledger
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, StaticMember, TopicConfig
from tempos_broker.lives import memory
from tempos_broker.lives.store import Store
from tempos_broker.paths import NoFastPath
from tempos_broker.slowpath.shell import SlowPathServer
from tempos_broker.tickets import FileTickets

TOPICS = 600
#: How many topics may be gone through at a time, at most; a life goes a few times through all of them.
MANY, WAYS = 200, 4


def _counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often things are done from now on."""
    done: Counter[str] = Counter()

    def count(place: Any, name: str) -> None:
        work: Callable[..., Any] = getattr(place, name)

        def counting(*args: Any, **more: Any) -> Any:
            done[name] += 1
            return work(*args, **more)

        monkeypatch.setattr(place, name, counting)

    for place, name in (
        (Ledger, "export"), (memory, "_check_ledger"), (Store, "_write"), (SlowPathServer, "sent")
    ):  # fmt: skip
        count(place, name)
    return done


async def test_a_life_begins_with_work_for_kinds_of_topics_not_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, control = free_ports(2)
    kinds = [(StaticMember(f"10.9.9.{number}", 9002, "g"),) for number in (2, 3)]
    config = BrokerConfig(
        tuple(TopicConfig(Topic(id_, f"plant/{id_}"), kinds[id_ % 2]) for id_ in range(1000, 1000 + TOPICS)),
        listen=("127.0.0.1",), data_port=data, control_port=control, api_port=0,
    )  # fmt: skip
    done = _counted(monkeypatch)
    for life in ("first", "second"):
        done.clear()
        rows = Rows(config.limits.topics)
        tickets = FileTickets(tmp_path / "tickets", rows)
        store = Store.open(tmp_path / "state")
        broker = Broker(config, NoFastPath("", tickets), store=store, rows=rows)
        await broker.start()
        began = dict(done)
        broker.stand()
        told = broker.status()["topics"]
        await broker.close()
        tickets.close()
        assert began.get("export", 0) <= 2 * len(kinds), life
        assert began.get("_check_ledger", 0) == (0 if life == "first" else len(kinds)), life
        assert began["_write"] <= WAYS * TOPICS / MANY, life
        assert began["sent"] <= WAYS * TOPICS / MANY, life
        assert [each["epoch"] for each in told] == [1] * TOPICS
        assert [len(each["groups"]) for each in told] == [1] * TOPICS
        assert all(each["balanced"] for each in told), life
