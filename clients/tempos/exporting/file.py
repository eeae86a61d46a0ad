"""Exports to a file of JSON lines. The last whole line is the place, so that it is written with the data.

What was being written when the machine or the process died is a line that has no end; it is cut off. A file
that was moved away is followed by a new one, whose first line has the place.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import json
import os
from collections.abc import Sequence
from typing import Any

from tempos.errors import LocalError, one_line
from tempos.exporting.course import Place, Record

_BLOCK = 1 << 16
#: How a line begins, as :func:`_line` makes it.
_HEAD = b'{"topic": '


class FileOutlet:
    """``topic``: of which the file is."""

    def __init__(self, path: str, topic: str) -> None:
        self._path = path
        self._topic = topic
        self._descriptor = -1
        self._at: Place | None = None

    async def open(self) -> Place | None:
        self._at = self._open()
        return self._at

    async def put(self, records: Sequence[Record]) -> None:
        # The disk may be slow; signals are heard meanwhile.
        await asyncio.to_thread(self._put, records)

    async def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> Place | None:
        descriptor = -1
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            place = self._cut(descriptor)
        except BlockingIOError as error:
            os.close(descriptor)
            raise LocalError(f"{self._path} is being written by another export") from error
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise LocalError(f"{self._path} cannot be written: {one_line(error)}") from error
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return place

    def _cut(self, descriptor: int) -> Place | None:
        """Cut off what is no whole line; the place of the last one that is."""
        size = end = os.fstat(descriptor).st_size
        tail = b""
        while end and tail.count(b"\n") < 2:
            begin = max(0, end - _BLOCK)
            tail = os.pread(descriptor, end - begin, begin) + tail
            end = begin
        whole = tail[: tail.rfind(b"\n") + 1]
        if not whole:
            if size:
                self._check_head(tail)
                os.ftruncate(descriptor, 0)
            return None
        place = self._place(whole[:-1].rpartition(b"\n")[2])
        os.ftruncate(descriptor, size - len(tail) + len(whole))
        return place

    def _check_head(self, torn: bytes) -> None:
        if torn[: len(_HEAD)] != _HEAD[: len(torn)]:
            raise self._foreign()

    def _place(self, line: bytes) -> Place | None:
        try:
            row = json.loads(line)
            topic, journal, position = row["topic"], row["journal"], row["position"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._foreign() from None
        if topic != self._topic:
            raise LocalError(f"{self._path} has events of the topic {topic!r}: choose another file")
        if journal is None:
            return None
        if not isinstance(journal, str) or not isinstance(position, int):
            raise self._foreign()
        return Place(journal, position)

    def _foreign(self) -> LocalError:
        return LocalError(f"{self._path} is no export: its last line names no position. Choose another file")

    def _put(self, records: Sequence[Record]) -> None:
        text = "".join(_line(each) for each in records)
        try:
            if self._was_moved():
                os.close(self._descriptor)
                self._descriptor = -1
                if self._open() is None and self._at is not None:
                    text = self._first_line(self._at) + text
            _write(self._descriptor, text.encode())
        except OSError as error:
            raise LocalError(f"{self._path} cannot be written: {one_line(error)}") from error
        self._at = records[-1].place

    def _was_moved(self) -> bool:
        own = os.fstat(self._descriptor)
        try:
            there = os.stat(self._path)  # noqa: PTH116 - compared with what a descriptor has
        except FileNotFoundError:
            return True
        return (own.st_dev, own.st_ino) != (there.st_dev, there.st_ino)

    def _first_line(self, place: Place) -> str:
        row = {"topic": self._topic, "journal": place.journal, "position": place.position, "continues": True}
        return json.dumps(row) + "\n"


def _line(record: Record) -> str:
    row: dict[str, Any] = {"topic": record.row["topic"], "journal": record.place.journal, **record.row}
    if record.payload is not None:
        row["payload"] = base64.b64encode(record.payload).decode()
    if record.missed or record.at_least:
        row["missed"], row["at_least"] = record.missed, record.at_least
    return json.dumps(row, ensure_ascii=False) + "\n"


def _write(descriptor: int, content: bytes) -> None:
    """All of it, on the disk, or nothing."""
    before = os.fstat(descriptor).st_size
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fdatasync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, before)
        raise
