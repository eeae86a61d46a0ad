"""What a broker must know of its former life: one SQLite file; counters lie beside it (:mod:`.tickets`).

The database holds a row per topic (epoch, members, account) and is written in a thread of its own, before
and after each swap of a route and about once a second. It may therefore lag behind; what must not, the
counters that move with every event, lies in files that are mapped into memory.

Rules: one broker at a time has a file, enforced by SQLite's lock; a file that cannot be understood is put
aside, told and begun anew, never a reason not to serve; one that is sound and only cannot be had, because
the disk is full or somebody else's, stays where it is; nothing here touches the disk on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tempos import Unavailable

log = logging.getLogger("tempos.broker.state")

#: Of the tables below and of the documents in them. A file of any other version is put aside.
SCHEMA = 1
#: How many files that were put aside are kept: the latest.
ASIDE_KEPT = 3
_TABLES = {
    "broker": "CREATE TABLE broker (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "topic": "CREATE TABLE topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL, epoch INTEGER NOT NULL,"
    " document TEXT NOT NULL)",
}
_BESIDE = ("-wal", "-shm", "-tickets", "-slow")
_LAST_EPOCH = (1 << 32) - 1
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Stored:
    """What a former life left: ``broker`` holds its own values, ``topics`` a document per topic id.

    Both are JSON values of any type; whoever takes them up looks at what they are.
    """

    broker: Mapping[str, Any] = field(default_factory=dict)
    topics: Mapping[int, Any] = field(default_factory=dict)
    epochs: Mapping[int, int] = field(default_factory=dict)


class Store:
    """The file, open and locked; made by :meth:`open`."""

    def __init__(self, path: Path, database: sqlite3.Connection, stored: Stored) -> None:
        self.path = path
        self.stored = stored
        self._database = database
        self._thread = ThreadPoolExecutor(1, "tempos-state")
        self._failing = False

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open or begin a file. Raises :class:`Unavailable` if another broker has it or it cannot be had."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                return cls(path, *_open(path))
            except _Broken as error:
                aside = _put_aside(path)
                log.warning("the state file %s cannot be used (%s): it is now %s, and all that was known "
                            "of members and past events begins anew", path, error, aside)  # fmt: skip
            return cls(path, *_open(path))
        except (OSError, sqlite3.Error, _Broken) as error:
            if _is_locked(error):
                raise Unavailable(
                    f"the state file {path} is in use by another broker: "
                    "give this one a broker.name or a state.file of its own"
                ) from None
            raise Unavailable(
                f'the state file {path} cannot be had: {error}; set state.file to another, or to "off"'
            ) from error

    async def save(
        self, broker: Mapping[str, Any], topics: Mapping[int, tuple[str, int, Mapping[str, Any]]]
    ) -> bool:
        """Write these values and topics (id -> name, epoch, document), all or none; whether it was done."""
        # Made into texts here: in the thread that would hold up this one, which cannot say when to go on.
        values = [(key, json.dumps(value)) for key, value in broker.items()]
        rows = [(id_, name, epoch, json.dumps(doc)) for id_, (name, epoch, doc) in topics.items()]
        try:
            await self._in_thread(lambda: self._write(values, rows))
        except sqlite3.Error as error:
            if not self._failing:
                log.error(  # noqa: TRY400 - its words say it all
                    "the state file %s cannot be written: %s; it is tried again every second, and until "
                    "then what changes would not survive the broker", self.path, error,
                )  # fmt: skip
            self._failing = True
        else:
            if self._failing:
                log.warning("the state file %s can be written again", self.path)
            self._failing = False
        return not self._failing

    async def close(self) -> None:
        """Let go of the file; safe to call twice."""
        with contextlib.suppress(RuntimeError):
            await self._in_thread(self._database.close)
        self._thread.shutdown(wait=False)

    def _write(self, values: Sequence[tuple[str, str]], rows: Sequence[tuple[int, str, int, str]]) -> None:
        if not self.path.exists():
            # SQLite would write on into a file that nobody finds any more.
            raise sqlite3.OperationalError("it was removed; the broker must be started again")
        with self._database:
            self._database.executemany("REPLACE INTO broker VALUES (?, ?)", values)
            self._database.executemany("REPLACE INTO topic VALUES (?, ?, ?, ?)", rows)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class _Broken(Exception):
    """No database, not of this schema, or with values that cannot be what they stand for."""


def _open(path: Path) -> tuple[sqlite3.Connection, Stored]:
    # SQLite gives the log beside the file the file's own mode: nobody else reads who is a member of what.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for ending in ("", *_BESIDE):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{ending}").chmod(0o600)
    # Opened here, used in the store's one thread ever after.
    database = sqlite3.connect(path, timeout=0.2, isolation_level="IMMEDIATE", check_same_thread=False)
    try:
        return database, _read(database)
    except sqlite3.OperationalError:
        # Locked, no room, no rights: nothing is wrong with what is in it.
        database.close()
        raise
    except sqlite3.DatabaseError as error:
        database.close()
        raise _Broken(error) from error
    except BaseException:
        database.close()
        raise


def _read(database: sqlite3.Connection) -> Stored:
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    tables = dict(database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall())
    if version == 0 and not tables:
        with database:
            for statement in _TABLES.values():
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {SCHEMA}")
    elif version != SCHEMA:
        raise _Broken(f"its schema is version {version}, this broker's is {SCHEMA}")
    elif tables != _TABLES:
        raise _Broken(f"its tables are not those of schema {SCHEMA}")
    # Takes the lock even where nothing was to be made.
    database.execute("BEGIN EXCLUSIVE")
    database.commit()
    # As bytes: SQLite keeps what it is given, whatever the column is said to hold.
    broker, topics, epochs = {}, {}, {}
    for key, value in database.execute("SELECT CAST(key AS BLOB), CAST(value AS BLOB) FROM broker"):
        broker[key.decode(errors="replace")] = _value(value)
    for id_, epoch, document in database.execute("SELECT id, epoch, CAST(document AS BLOB) FROM topic"):
        if type(epoch) is not int or not 0 <= epoch <= _LAST_EPOCH:
            raise _Broken(f"the epoch of topic {id_} is {epoch!r}")
        epochs[id_] = epoch
        topics[id_] = _value(document)
    return Stored(broker, topics, epochs)


def _value(text: bytes) -> Any:
    """A JSON value, or None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_locked(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _put_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}")
    path.rename(aside)
    for ending in _BESIDE:
        Path(f"{path}{ending}").unlink(missing_ok=True)
    earlier = sorted(each for each in path.parent.iterdir() if each.name.startswith(f"{path.name}.broken-"))
    for each in earlier[:-ASIDE_KEPT]:
        each.unlink(missing_ok=True)
    return aside
