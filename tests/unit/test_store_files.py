"""The files that survive a process: what is found in them, and what is not."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tempos import Unavailable
from tempos._abi import TOPIC_MAX
from tempos._rows import Rows
from tempos._slots import NUMBERS
from tempos_broker.lives import store as module
from tempos_broker.lives.store import Store, Stored, Thing
from tempos_broker.tickets import FileTickets


def test_counters_go_on_in_the_next_process(tmp_path: Path) -> None:
    # So many that the file is not of whole pages by itself.
    rows = Rows(topics=41)
    rows.give(TOPIC_MAX, rows.count - 1)
    last = (TOPIC_MAX, 1, NUMBERS - 1)
    first = FileTickets(tmp_path / "tickets", rows)
    assert [first.draw(*last, 3), first.draw(*last, 1), first.draw(1, 0, 0, 5)] == [0, 3, 0]
    first.close()
    second = FileTickets(tmp_path / "tickets", rows)
    assert (second.read(*last), second.read(1, 0, 0)) == (4, 5)
    second.reset(TOPIC_MAX, 1)
    assert (second.read(*last), second.read(1, 0, 0)) == (0, 5)
    second.close()


def test_a_file_that_another_version_laid_out_is_begun_anew(tmp_path: Path) -> None:
    """Every counter would be read from the wrong place, and the account be wrong without a word."""
    path = tmp_path / "tickets"
    path.write_bytes(b"\1" * 65536)
    tickets = FileTickets(path, Rows())
    assert (tickets.read(0, 0, 0), tickets.read(7, 1, 3)) == (0, 0)
    tickets.close()


async def test_a_state_file_that_somebody_removes_is_missed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite would write on into a file that has no name any more."""
    store = Store.open(tmp_path / "a" / "state.db")
    assert await store.save([Thing("kind", "key", 1)])
    shutil.rmtree(tmp_path / "a")
    assert not await store.save([Thing("kind", "key", 1)])
    await store.close()
    assert "it was removed; the broker must be started again" in caplog.text


async def test_a_disk_that_cannot_be_looked_at_is_told_like_one_that_is_full(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has a swap written down goes on with it."""
    store = Store.open(tmp_path / "state.db")

    def fail(path: Path) -> bool:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as sick:
        sick.setattr(Path, "exists", fail)
        assert not await store.save([Thing("kind", "key", 1)])
    assert "Input/output error" in caplog.text
    assert await store.save([Thing("kind", "key", 2)])
    await store.close()
    assert "can be written again" in caplog.text


class Connection(sqlite3.Connection):
    """Has a word in each statement, and no more pages than it is allowed."""

    pages = 0
    #: Called once a statement was executed.
    after: Callable[[str], None] = staticmethod(lambda _: None)

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        if self.pages:
            super().execute(f"PRAGMA max_page_count = {self.pages}")

    def execute(self, statement: str, *args: Any) -> sqlite3.Cursor:
        done = super().execute(statement, *args)
        self.after(statement)
        return done


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> type[Connection]:
    class Made(Connection):
        pass

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, factory=Made, **more))
    return Made


async def opened(path: Path) -> Stored:
    store = Store.open(path)
    await store.close()
    return store.stored


def put_aside(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.name}.broken-*"))


async def test_a_disk_too_full_for_a_file_to_begin_is_no_reason_to_put_it_aside(
    tmp_path: Path, connection: type[Connection]
) -> None:
    refused = 0
    for pages in range(1, 9):
        path = tmp_path / str(pages) / "state.db"
        for _ in range(3):
            connection.pages = pages
            try:
                await opened(path)
            except Unavailable as error:
                refused += "full" in str(error)
        connection.pages = 0
        assert not (await opened(path)).epochs
        assert not put_aside(path), pages
    assert 3 <= refused < 24, "some have room, some have not"


def begin(path: Path, version: int, tables: dict[str, str]) -> None:
    """A file as a broker of this schema left it, or one that was cut off."""
    database = sqlite3.connect(path)
    for statement in tables.values():
        database.execute(statement)
    if "topic" in tables:
        document = json.dumps({"members": ["somebody"]})
        database.execute("INSERT INTO topic VALUES (1, 'events', 7, ?)", (document,))
    database.execute(f"PRAGMA user_version = {version}")
    database.commit()
    database.close()


async def test_whatever_cuts_off_the_step_to_the_next_schema_nobody_is_forgotten(
    tmp_path: Path, connection: type[Connection]
) -> None:
    path = tmp_path / "state.db"
    begin(path, 1, module._TABLES[1])
    left: list[tuple[str, Path]] = []

    def look(statement: str) -> None:
        """What a kill in this moment would leave on the disk."""
        folder = tmp_path / str(len(left))
        folder.mkdir()
        for each in tmp_path.glob("state.db*"):
            shutil.copy(each, folder)
        left.append((statement, folder / path.name))

    connection.after = staticmethod(look)
    await opened(path)
    connection.after = staticmethod(lambda _: None)
    assert sum(statement.startswith("CREATE TABLE") for statement, _ in left) == len(module._TABLES[2])
    for statement, copy in left:
        stored = await opened(copy)
        assert (dict(stored.topics), stored.epochs) == ({1: {"members": ["somebody"]}}, {1: 7}), statement
        assert not put_aside(copy), statement


@pytest.mark.parametrize("version", [0, 1])
async def test_what_an_earlier_broker_began_is_finished_and_what_is_not_ours_is_put_aside(
    tmp_path: Path, version: int
) -> None:
    tables = {name: made for since in (1, 2) for name, made in module._TABLES[since].items()}
    first = len(module._TABLES[1]) if version else 0
    for some in range(first, len(tables) + 1):
        path = tmp_path / f"{some}.db"
        begin(path, version, dict(list(tables.items())[:some]))
        stored = await opened(path)
        assert stored.epochs == ({1: 7} if some > 1 else {})
        assert not put_aside(path)
    begin(tmp_path / "other.db", version, {**tables, "other": "CREATE TABLE other (key TEXT)"})
    begin(tmp_path / "column.db", version, {**tables, "broker": "CREATE TABLE broker (key TEXT)"})
    for name in ("other", "column"):
        assert not (await opened(tmp_path / f"{name}.db")).epochs
        assert len(put_aside(tmp_path / f"{name}.db")) == 1
