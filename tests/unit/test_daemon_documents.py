"""What no daemon takes in a document or from a file that is named in one, and what is told of it by HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from support.waiting import LIMIT

from tempos import ConfigError
from tempos_broker.config.topics import ANYWHERE, read_topic
from tempos_controller.config import load as platform
from tempos_daemon.files import MOST, read_start
from tempos_daemon.http_server import HttpServer
from tempos_daemon.token import read_token
from tempos_daemon.web import new_app
from tempos_invoker.deploy import layout as invoker
from tempos_trigger import layout as trigger

HALF = "\ud800"
SPAWN = {"name": "f", "mode": "spawn", "args": ["/bin/cat"]}
FILES = {"name": "e", "kind": "file", "topic": "t"}


def _topic(document: Any) -> object:
    return read_topic(document, ANYWHERE)


@pytest.mark.parametrize(
    ("read", "document", "where"),
    [
        (_topic, {"id": 1, "name": HALF}, "name"),
        (invoker.read, {"revision": HALF}, "revision"),
        (invoker.read, {"function": [{**SPAWN, "args": ["/bin/cat", HALF]}]}, "function[0].args"),
        (invoker.read, {"function": [{**SPAWN, "env": {"A": HALF}}]}, "function[0].env"),
        (invoker.read, {"function": [{**SPAWN, "warm": HALF}]}, "function[0].warm"),
        (lambda told: trigger.parse(told, "told"), {"endpoint": [{**FILES, "path": f"/{HALF}"}]}, "path"),
        (lambda told: platform.read(told, "told"), {"function": [{**SPAWN, "cwd": HALF}]}, "cwd"),
        (
            lambda told: platform.read(told, "told"),
            {"trigger": [{"name": "t", "kind": "file", "path": {"a": [HALF]}}]},
            "trigger[0].path.a[0]",
        ),
    ],
)
def test_half_a_character_is_a_fault_wherever_it_stands(
    read: Callable[[Any], object], document: object, where: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(json.loads(json.dumps(document)))
    assert any(where in problem for problem in caught.value.problems), caught.value.problems
    assert str(caught.value).isascii()


def test_files_without_an_end_or_a_beginning_cost_nothing(tmp_path: Path) -> None:
    assert len(read_start(Path("/dev/zero"))) == MOST + 1
    with pytest.raises(ConfigError, match="does not hold 16 to 256 printable"):
        read_token("/dev/zero", "broker.api_token_file")
    code = tmp_path / "code.py"
    # Whoever opens it waits for somebody to write.
    os.mkfifo(code)
    text = f'[[function]]\nname = "f"\nmode = "python"\nentry = "code:f"\ncode = "{code.name}"\n'
    (tmp_path / "it.toml").write_text(text)
    for load in (invoker.load, platform.load):
        with pytest.raises(ConfigError, match="which cannot be read: it is no plain file"):
            load(tmp_path / "it.toml")


async def test_who_goes_away_in_the_middle_of_a_request_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = new_app("test", lambda: True, "it does")
    asked: asyncio.Queue[str] = asyncio.Queue()

    @app.put("/v1/what")
    async def put_what(request: Request) -> None:
        asked.put_nowait("begun")
        try:
            raise ConfigError([f"is {(await request.body()).decode()}{HALF}"])
        finally:
            asked.put_nowait("over")

    async def send(length: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(f"PUT /v1/what HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\nhalf".encode())
            assert await asyncio.wait_for(asked.get(), LIMIT) == "begun"
            if length == len("half"):
                return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)
        finally:
            writer.close()
            assert await asyncio.wait_for(asked.get(), LIMIT) == "over"
        return b""

    server = HttpServer(app, "127.0.0.1", 0, Counter())
    await server.start()
    try:
        with caplog.at_level(logging.INFO):
            await send(1000)
            # Whatever is told, it is told as a document.
            assert (await send(len("half"))).startswith(b"HTTP/1.1 409 ")
    finally:
        await server.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
