"""What a broker must know of its former life: one SQLite file, and two files of counters beside it.

The database holds a row per topic (epoch, members, account) and is written in a thread of its own, before
and after each swap of a route and about once a second. It may therefore lag behind; what must not, the
counters that move with every event, lies in files that are mapped into memory: a process that is killed
leaves them as they were at its last instruction.

Rules: one broker at a time has a file, enforced by SQLite's lock; a file that cannot be understood is put
aside, told and begun anew, never a reason not to serve; nothing here touches the disk on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import mmap
import os
import sqlite3
import struct
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tempos import Unavailable
from tempos._abi import GROUPS_PER_TOPIC
from tempos._slots import SLOTS, group_slot
from tempos_broker.config.model import BrokerConfig
from tempos_broker.paths import Tickets

if TYPE_CHECKING:
    from tempos_broker.shared import SharedNumbers

log = logging.getLogger("tempos.broker.state")

#: Of the tables below and of the documents in them. A file of any other version is put aside.
SCHEMA = 1
_TABLES = (
    "CREATE TABLE broker (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL, epoch INTEGER NOT NULL,"
    " document TEXT NOT NULL)",
)
_COUNTER = struct.Struct("=Q")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Stored:
    """What a former life left: ``broker`` holds its own values, ``topics`` a document per topic id."""

    broker: Mapping[str, Any] = field(default_factory=dict)
    topics: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
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
        """Open or begin a file. Raises :class:`Unavailable` if another broker has it or it cannot be made."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                return cls(path, *_open(path))
            except (sqlite3.DatabaseError, _NotOurs, ValueError, KeyError, TypeError) as error:
                if _is_locked(error):
                    raise Unavailable(
                        f"the state file {path} is in use by another broker: "
                        "give this one a broker.name or a state.file of its own"
                    ) from None
                if isinstance(error, sqlite3.OperationalError) and not path.exists():
                    raise
                aside = _put_aside(path)
                log.warning("the state file %s cannot be used (%s): it is now %s, and all that was known "
                            "of members and past events begins anew", path, error, aside)  # fmt: skip
            return cls(path, *_open(path))
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(
                f'the state file {path} cannot be had: {error}; set state.file to another, or to "off"'
            ) from error

    async def save(
        self, broker: Mapping[str, Any], topics: Mapping[int, tuple[str, int, Mapping[str, Any]]]
    ) -> None:
        """Write these values and topics (id -> name, epoch, document), all of them or none."""
        try:
            await self._in_thread(lambda: self._write(broker, topics))
        except sqlite3.Error as error:
            if not self._failing:
                log.error("the state file %s cannot be written: %s", self.path, error)  # noqa: TRY400
            self._failing = True
        else:
            if self._failing:
                log.warning("the state file %s can be written again", self.path)
            self._failing = False

    async def close(self) -> None:
        """Let go of the file; safe to call twice."""
        if self._thread is not None:
            with contextlib.suppress(RuntimeError):
                await self._in_thread(self._database.close)
            self._thread.shutdown(wait=False)

    def _write(
        self, broker: Mapping[str, Any], topics: Mapping[int, tuple[str, int, Mapping[str, Any]]]
    ) -> None:
        with self._database:
            self._database.executemany(
                "REPLACE INTO broker VALUES (?, ?)",
                [(key, json.dumps(value)) for key, value in broker.items()],
            )
            self._database.executemany(
                "REPLACE INTO topic VALUES (?, ?, ?, ?)",
                [(id_, name, epoch, json.dumps(doc)) for id_, (name, epoch, doc) in topics.items()],
            )

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class _NotOurs(Exception):
    """A database, but not of this schema."""


def _open(path: Path) -> tuple[sqlite3.Connection, Stored]:
    # Opened here, used in the store's one thread ever after.
    database = sqlite3.connect(path, timeout=0.2, isolation_level="IMMEDIATE", check_same_thread=False)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version == 0 and tables == 0:
            with database:
                for table in _TABLES:
                    database.execute(table)
                database.execute(f"PRAGMA user_version = {SCHEMA}")
        elif version != SCHEMA:
            raise _NotOurs(f"its schema is version {version}, this broker's is {SCHEMA}")
        # Takes the lock even where nothing was to be made.
        database.execute("BEGIN EXCLUSIVE")
        database.commit()
        broker = {key: json.loads(value) for key, value in database.execute("SELECT * FROM broker")}
        rows = database.execute("SELECT id, name, epoch, document FROM topic").fetchall()
        topics = {}
        for id_, _, _, text in rows:
            topics[id_] = json.loads(text)
            if not isinstance(topics[id_], dict):
                raise _NotOurs(f"topic {id_} is no document")
        path.chmod(0o600)
        return database, Stored(broker, topics, {row[0]: row[2] for row in rows})
    except BaseException:
        database.close()
        raise


def _is_locked(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _put_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}")
    path.rename(aside)
    for ending in ("-wal", "-shm", "-tickets", "-slow"):
        Path(f"{path}{ending}").unlink(missing_ok=True)
    return aside


def state_file(config: BrokerConfig) -> Path | None:
    """Where the state of a broker belongs, or None for nowhere."""
    if config.state.file == "off":
        return None
    if config.state.file:
        return Path(config.state.file)
    folder = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(folder) / "tempos" / f"{config.name}.db" if folder else None


class FileTickets:
    """Ticket counters in a file that survives the process; with the compiled helper, of several processes."""

    #: Bytes between two counters.
    stride = _COUNTER.size

    def __init__(self, path: Path | None) -> None:
        """Open or make the file; None: memory that ends with the last process that has it.

        A file of another size is of a version that laid it out otherwise: it is begun anew. Raises
        :class:`OSError`.
        """
        size = SLOTS * _COUNTER.size
        if path is None:
            self.descriptor = os.memfd_create("tempos-tickets", os.MFD_CLOEXEC)
        else:
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(self.descriptor).st_size != size:
                os.ftruncate(self.descriptor, 0)
            os.ftruncate(self.descriptor, size)
            self._memory = mmap.mmap(self.descriptor, size)
            self._shared = _shared(self.descriptor, size // _COUNTER.size)
        except BaseException:
            os.close(self.descriptor)
            raise

    def draw(self, topic: int, epoch: int, group: int, count: int) -> int:
        if self._shared is not None:
            return self._shared.add(group_slot(topic, epoch, group), count)
        offset = group_slot(topic, epoch, group) * _COUNTER.size
        first: int = _COUNTER.unpack_from(self._memory, offset)[0]
        _COUNTER.pack_into(self._memory, offset, first + count)
        return first

    def read(self, topic: int, epoch: int, group: int) -> int:
        return int(_COUNTER.unpack_from(self._memory, group_slot(topic, epoch, group) * _COUNTER.size)[0])

    def reset(self, topic: int, epoch: int) -> None:
        first = group_slot(topic, epoch, 0) * _COUNTER.size
        size = GROUPS_PER_TOPIC * _COUNTER.size
        self._memory[first : first + size] = bytes(size)

    def close(self) -> None:
        """Let go of the file; safe to call twice."""
        if not self._memory.closed:
            if self._shared is not None:
                self._shared.close()
            self._memory.close()
            os.close(self.descriptor)


def _shared(descriptor: int, count: int) -> SharedNumbers | None:
    """The counters as several processes may use them, where the compiled helper is there."""
    try:
        from tempos_broker.shared import SharedNumbers
    except ImportError:
        return None
    return SharedNumbers(descriptor, count)


class CountedTickets:
    """Tickets of which what the slow path draws is counted, too: events, by topic.

    Both paths draw from ``tickets``; ``counts`` tells how many of them the slow path drew.
    """

    def __init__(self, tickets: Tickets, counts: Tickets) -> None:
        #: The same tickets, drawn without being counted.
        self.uncounted = tickets
        self.counts = counts

    def draw(self, topic: int, epoch: int, group: int, count: int) -> int:
        if not group:
            self.counts.draw(topic, 0, 0, count)
        return self.uncounted.draw(topic, epoch, group, count)

    def read(self, topic: int, epoch: int, group: int) -> int:
        return self.uncounted.read(topic, epoch, group)

    def reset(self, topic: int, epoch: int) -> None:
        self.uncounted.reset(topic, epoch)

    def drawn(self, topic: int) -> int:
        """Events for which the slow path drew tickets, in this life and those before."""
        return self.counts.read(topic, 0, 0)

    def forget(self, topic: int) -> None:
        self.counts.reset(topic, 0)
