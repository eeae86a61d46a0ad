"""Lines and files become events, through the death of the broker, restarts of the trigger and rotation."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.triggers import TOPIC, BrokerBeside, broker_beside, eventually, taking, trigger_here

from tempos import ConfigError
from tempos_trigger import layout
from tempos_trigger.trigger import Trigger


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerBeside]:
    with broker_beside(tmp_path_factory.mktemp("broker")) as started:
        yield started


def document(broker: BrokerBeside, *endpoints: dict[str, Any]) -> dict[str, Any]:
    return {
        "broker": broker.table,
        "endpoint": [{"topic": TOPIC, "kind": "file", **each} for each in endpoints],
    }


def told(trigger: Trigger, name: str = "in") -> dict[str, Any]:
    status = trigger.endpoints[name].status()
    assert status["balanced"], status
    return status


def append(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


async def test_lines(broker: BrokerBeside, tmp_path: Path) -> None:
    logs, log = tmp_path / "logs", tmp_path / "logs" / "app.log"
    endpoint = {"name": "in", "path": str(logs), "pattern": "*.log", "buffer": 20, "max_age": 60}
    async with taking(broker) as taken:
        async with trigger_here(tmp_path, document(broker, endpoint)) as trigger:
            # The folder is not there yet.
            await eventually(lambda: told(trigger)["source"]["state"] == "waiting")
            logs.mkdir()
            append(log, "old")
            await eventually(lambda: told(trigger)["source"]["state"] == "up")
            append(log, "one", "two")
            log.rename(logs / "app.log.1")
            append(logs / "app.log.1", "late")
            append(log, "new")
            await taken.count(4)
            assert set(taken.in_order) == {b"one", b"two", b"late", b"new"}

            await asyncio.to_thread(broker.end)
            append(log, *[f"away {number}" for number in range(100)])
            # Twenty wait, the others wait in the file.
            await eventually(lambda: told(trigger)["waiting"] == 20)
            assert told(trigger)["dropped"] == {}
        # It stops with these twenty unpublished; the next one finds them again, and the rest.
        await asyncio.to_thread(broker.start)
    async with taking(broker) as taken, trigger_here(tmp_path, document(broker, endpoint)) as trigger:
        append(log, "last")
        await taken.count(101)
        assert taken.in_order == [*(b"away %d" % number for number in range(100)), b"last"]
        assert told(trigger)["published"] == told(trigger)["received"] == 101
        # The folder goes and comes back.
        await asyncio.to_thread(shutil.rmtree, logs)
        await eventually(lambda: told(trigger)["source"]["state"] == "waiting")
        logs.mkdir()
        append(log, "again")
        await taken.count(102)
        assert taken.in_order[-1] == b"again"


async def test_a_spool_is_emptied(broker: BrokerBeside, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / "before").write_bytes(b"\xffbefore")
    endpoint = {
        "name": "in", "path": str(spool), "take": "files", "start": "beginning", "rest": 0.05,
        "done": "remove", "body": "whole", "limit": 100,
    }  # fmt: skip
    async with taking(broker) as taken, trigger_here(tmp_path, document(broker, endpoint)) as trigger:
        for number in range(30):
            beside = spool / f".{number}"
            beside.write_text(f"file {number}")
            beside.rename(spool / f"file {number}")
        (spool / "large").write_bytes(b"x" * 101)
        await taken.count(31)
        got = {each["file"]: each for each in map(json.loads, taken.in_order)}
        assert got["before"]["data_base64"] == "/2JlZm9yZQ=="
        assert all(got[f"file {number}"]["data"] == f"file {number}" for number in range(30))
        await eventually(lambda: [each.name for each in spool.iterdir()] == ["large"])
        await eventually(lambda: told(trigger)["dropped"] == {"too_large": 1})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": "logs"}, "the path of a folder, from / on"),
        ({"path": "/x", "pattern": "a/b"}, "without a slash"),
        ({"path": "/x", "done": "remove"}, "where lines are taken"),
    ],
)
def test_what_is_refused_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        layout.parse({"endpoint": [{"name": "x", "topic": "t", "kind": "file", **options}]}, "d")
