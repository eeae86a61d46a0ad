"""What a broker must know of its former life: one SQLite file, and counters beside it (`tickets.py`).

Of each topic the database holds a document (epoch, members, account), written about once a second if it
changed, and the *steps* since then: what each swap of a route changed, written before and after it. Whatever
else is to survive is a *thing*: a JSON value under a kind and a key. All is written in a thread of its own;
what is asked for while that is busy is written together, in one transaction. It may therefore lag behind;
what must not, the counters that move with every event, lies in files that are mapped into memory.

Rules: one broker at a time has a file, enforced by SQLite's lock; one of an earlier schema is brought
forward; a file that cannot be understood is put aside, told and begun anew, never a reason not to serve; one
that is sound and only cannot be had, because the disk is full or somebody else's, stays where it is; nothing
here touches the disk on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tempos import Unavailable
from tempos.errors import one_line
from tempos_broker.lives.alike import Documents, value_of

log = logging.getLogger("tempos.broker.state")

#: Of the tables below and of the documents in them. Earlier ones lack tables, later ones are put aside.
SCHEMA = 2
#: How many files that were put aside are kept: the latest.
ASIDE_KEPT = 3
#: By the schema that has them first.
_TABLES = {
    1: {
        "broker": "CREATE TABLE broker (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "topic": "CREATE TABLE topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL, epoch INTEGER NOT NULL,"
        " document TEXT NOT NULL)",
    },
    2: {
        "step": "CREATE TABLE step (topic INTEGER, number INTEGER, epoch INTEGER NOT NULL,"
        " document TEXT NOT NULL, PRIMARY KEY (topic, number)) WITHOUT ROWID",
        "thing": "CREATE TABLE thing (kind TEXT, key TEXT, value TEXT NOT NULL,"
        " PRIMARY KEY (kind, key)) WITHOUT ROWID",
    },
}
_THINGS = "SELECT CAST(kind AS BLOB), CAST(key AS BLOB), CAST(value AS BLOB) FROM thing"
_BESIDE = ("-wal", "-shm", "-tickets", "-slow")
_LAST_EPOCH = (1 << 32) - 1
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Stored:
    """What a former life left: ``broker`` holds its own values, ``topics`` a document per topic id.

    ``steps``: since the document, by topic id, the oldest first: number and document. ``things``: by kind and
    key. All are JSON values of any type; whoever takes them up looks at what they are.
    """

    broker: Mapping[str, Any] = field(default_factory=dict)
    topics: Documents = field(default_factory=lambda: Documents({}))
    epochs: Mapping[int, int] = field(default_factory=dict)
    steps: Mapping[int, Sequence[tuple[int, Any]]] = field(default_factory=dict)
    things: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Whole:
    """All of a topic, in the place of whatever was stored of it, steps up to ``number`` included.

    ``document``: JSON values, or their text.
    """

    topic: int
    name: str
    epoch: int
    number: int
    document: Mapping[str, Any] | str


@dataclass(frozen=True, slots=True)
class Step:
    """What has changed of a topic since the step before, or since it was stored whole."""

    topic: int
    number: int
    epoch: int
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Thing:
    """A value under a kind and a key; None: there is none any more."""

    kind: str
    key: str
    value: Any


@dataclass(slots=True)
class _Rows:
    """As the tables have them."""

    topics: list[tuple[int, str, int, str]] = field(default_factory=list)
    over: list[tuple[int, int]] = field(default_factory=list)
    steps: list[tuple[int, int, int, str]] = field(default_factory=list)
    things: dict[tuple[str, str], str | None] = field(default_factory=dict)

    def add(self, change: Whole | Step | Thing) -> None:
        match change:
            case Whole(topic, name, epoch, number, document):
                text = document if isinstance(document, str) else json.dumps(document)
                self.topics.append((topic, name, epoch, text))
                self.over.append((topic, number))
            case Step(topic, number, epoch, document):
                self.steps.append((topic, number, epoch, json.dumps(document)))
            case Thing(kind, key, value):
                self.things[kind, key] = None if value is None else json.dumps(value)


class Store:
    """The file, open and locked; made by :meth:`open`."""

    def __init__(self, path: Path, database: sqlite3.Connection, stored: Stored) -> None:
        self.path = path
        self.stored = stored
        #: The broker's own values, written beside whatever else is.
        self.values: Callable[[], Mapping[str, Any]] = dict
        self._database = database
        self._thread = ThreadPoolExecutor(1, "tempos-state")
        #: Why it cannot be written now, or "".
        self.trouble = ""
        #: What is written together next, as soon as the thread is free; and the latest writing.
        self._gathered: _Rows | None = None
        self._writing: asyncio.Task[bool] | None = None

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

    async def save(self, changes: Iterable[Whole | Step | Thing]) -> bool:
        """Write these, all or none, and the broker's own values; whether it was done.

        What others ask for before it is their turn is written with it. Writings are done in the order in
        which they were asked for, also where nobody waits any more for this one.
        """
        if self._gathered is None:
            self._gathered = _Rows()
            self._writing = asyncio.create_task(self._write_gathered(self._writing), name="write the state")
        assert self._writing is not None, "just made, or waiting for its turn"
        writing = self._writing
        # Made into texts here: in the thread that would hold up this one, which cannot say when to go on.
        for change in changes:
            self._gathered.add(change)
        return await asyncio.shield(writing)

    async def written(self) -> None:
        """Return once nothing is being written that was asked for by now."""
        if self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing])

    async def _write_gathered(self, before: asyncio.Task[bool] | None) -> bool:
        if before is not None:
            await asyncio.wait([before])
        rows, self._gathered = self._gathered, None
        assert rows is not None, "nobody else takes them"
        values = [(key, json.dumps(value)) for key, value in self.values().items()]
        try:
            await self._in_thread(lambda: self._write(values, rows))
        except (OSError, sqlite3.Error) as error:
            if not self.trouble:
                log.error(  # noqa: TRY400 - its words say it all
                    "the state file %s cannot be written: %s; it is tried again every second, and until "
                    "then what changes would not survive the broker", self.path, error,
                )  # fmt: skip
            self.trouble = one_line(error) or type(error).__name__
        else:
            if self.trouble:
                log.warning("the state file %s can be written again", self.path)
            self.trouble = ""
        return not self.trouble

    async def close(self) -> None:
        """Let go of the file; safe to call twice."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        with contextlib.suppress(RuntimeError):
            await self._in_thread(self._database.close)
        self._thread.shutdown(wait=False)

    def _write(self, values: Sequence[tuple[str, str]], rows: _Rows) -> None:
        if not self.path.exists():
            # SQLite would write on into a file that nobody finds any more.
            raise sqlite3.OperationalError("it was removed; the broker must be started again")
        write = self._database.executemany
        kept = [(*place, value) for place, value in rows.things.items() if value is not None]
        gone = [place for place, value in rows.things.items() if value is None]
        with self._database:
            write("REPLACE INTO broker VALUES (?, ?)", values)
            write("REPLACE INTO topic VALUES (?, ?, ?, ?)", rows.topics)
            # One that was asked for together with the whole that has it in it stays, and is passed over.
            write("DELETE FROM step WHERE topic = ? AND number <= ?", rows.over)
            write("REPLACE INTO step VALUES (?, ?, ?, ?)", rows.steps)
            write("DELETE FROM thing WHERE kind = ? AND key = ?", gone)
            write("REPLACE INTO thing VALUES (?, ?, ?)", kept)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def things_in(path: Path, kind: str) -> Mapping[str, Any]:
    """What stands under a kind in a file that no broker uses; raises :class:`Unavailable`."""
    database = None
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", timeout=0.2, uri=True)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        rows = database.execute(_THINGS).fetchall() if version > 1 else []
    except sqlite3.Error as error:
        used = "a broker uses it: ask that one" if _is_locked(error) else str(error)
        raise Unavailable(f"the state file {path} cannot be read: {used}") from error
    finally:
        if database is not None:
            database.close()
    wanted = kind.encode()
    return {key.decode(errors="replace"): value_of(value) for of, key, value in rows if of == wanted}


class _Broken(Exception):
    """No database, not of a schema we know, or with values that cannot be what they stand for."""


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
    _bring_forward(database)
    # Takes the lock even where nothing was to be made.
    database.execute("BEGIN EXCLUSIVE")
    database.commit()
    # As bytes: SQLite keeps what it is given, whatever the column is said to hold.
    broker, epochs = {}, {}
    topics: dict[int, bytes] = {}
    steps: dict[int, list[tuple[int, Any]]] = {}
    things: dict[str, dict[str, Any]] = {}
    for key, value in database.execute("SELECT CAST(key AS BLOB), CAST(value AS BLOB) FROM broker"):
        broker[key.decode(errors="replace")] = value_of(value)
    for id_, epoch, document in database.execute("SELECT id, epoch, CAST(document AS BLOB) FROM topic"):
        epochs[id_] = _epoch(id_, epoch)
        topics[id_] = document
    for id_, number, epoch, document in database.execute(
        "SELECT topic, number, epoch, CAST(document AS BLOB) FROM step ORDER BY topic, number"
    ):
        if type(id_) is not int or type(number) is not int:
            raise _Broken(f"a step is number {number!r} of topic {id_!r}")
        epochs[id_] = max(epochs.get(id_, 0), _epoch(id_, epoch))
        steps.setdefault(id_, []).append((number, value_of(document)))
    for kind, key, value in database.execute(_THINGS):
        things.setdefault(kind.decode(errors="replace"), {})[key.decode(errors="replace")] = value_of(value)
    return Stored(broker, Documents(topics), epochs, steps, things)


def _bring_forward(database: sqlite3.Connection) -> None:
    """Make the tables that are not there yet; raises :class:`_Broken` for a file that is not one of ours."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    tables = dict(database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall())
    if version not in range(SCHEMA + 1):
        raise _Broken(f"its schema is version {version}, this broker's is {SCHEMA}")
    # Earlier brokers made the rest one by one: where one of them was cut off there are some already.
    there = {name: made for since in range(1, version + 1) for name, made in _TABLES[since].items()}
    rest = {name: made for since in range(version + 1, SCHEMA + 1) for name, made in _TABLES[since].items()}
    if not there.items() <= tables.items() <= {**there, **rest}.items():
        raise _Broken(f"its tables are not those of schema {version}")
    if version < SCHEMA:
        with database:
            # All or nothing: by itself the module begins no transaction for what makes tables.
            database.execute("BEGIN IMMEDIATE")
            for name, statement in rest.items():
                if name not in tables:
                    database.execute(statement)
            database.execute(f"PRAGMA user_version = {SCHEMA}")


def _epoch(topic: Any, epoch: Any) -> int:
    if type(epoch) is not int or not 0 <= epoch <= _LAST_EPOCH:
        raise _Broken(f"the epoch of topic {topic} is {epoch!r}")
    return epoch


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
