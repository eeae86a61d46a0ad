"""SIGHUP makes a daemon read its configuration again, whatever came of it the last time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest
from support.waiting import LIMIT

from tempos import ConfigError, Unavailable
from tempos_daemon.rereading import Rereading


async def test_signals_that_come_meanwhile_are_one_more_reading(capsys: pytest.CaptureFixture[str]) -> None:
    begun, go_on = asyncio.Queue[int](), asyncio.Queue[Sequence[str]]()
    count = 0

    async def reload() -> Sequence[str]:
        nonlocal count
        count += 1
        begun.put_nowait(count)
        return await go_on.get()

    rereading = Rereading(reload)
    rereading.on_signal()
    assert await asyncio.wait_for(begun.get(), LIMIT) == 1
    rereading.on_signal()
    rereading.on_signal()
    go_on.put_nowait(["topic a: new"])
    assert await asyncio.wait_for(begun.get(), LIMIT) == 2
    go_on.put_nowait([])
    while "nothing changed" not in (said := capsys.readouterr().out):
        assert said in ("", "reload: topic a: new\n")
        await asyncio.sleep(0)
    await rereading.close()
    assert count == 2


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConfigError(["f.toml: a", "f.toml: b"]), ["not reloaded: f.toml: a", "not reloaded: f.toml: b"]),
        (Unavailable("no room"), ["not reloaded: no room"]),
        (ZeroDivisionError("of ours"), ["not reloaded"]),
    ],
)
async def test_what_fails_is_told_and_the_next_signal_is_heard(
    error: Exception, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    called, fails = asyncio.Event(), True

    async def reload() -> Sequence[str]:
        called.set()
        if fails:
            raise error
        return []

    rereading = Rereading(reload)
    with caplog.at_level(logging.ERROR):
        rereading.on_signal()
        while len(caplog.messages) < len(told):
            await asyncio.wait_for(called.wait(), LIMIT)
            await asyncio.sleep(0)
    assert caplog.messages == told
    fails = False
    await asyncio.sleep(0)
    called.clear()
    rereading.on_signal()
    await asyncio.wait_for(called.wait(), LIMIT)
    await rereading.close()


async def test_one_that_comes_to_its_end_while_it_is_waited_for_is_no_fault_of_the_stop() -> None:
    called, goes_on = asyncio.Event(), asyncio.Event()

    async def reload() -> Sequence[str]:
        called.set()
        await goes_on.wait()
        return []

    rereading = Rereading(reload)
    rereading.on_signal()
    await asyncio.wait_for(called.wait(), LIMIT)
    closing = asyncio.create_task(rereading.close())
    await asyncio.sleep(0)
    goes_on.set()
    await asyncio.wait_for(closing, LIMIT)
