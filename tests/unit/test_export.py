"""Exports: what lacks between two events, how far one has come, and files that end anywhere."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempos.errors import LocalError
from tempos.exporting.course import Course, Place, Record
from tempos.exporting.file import FileOutlet
from tempos_broker.journal.epochs import INSIDE, Epochs


@settings(deadline=None)
@given(had=st.lists(st.integers(0, 50), min_size=1, max_size=6), one=st.integers(0), other=st.integers(0))
def test_what_lacks_between_two_events_is_counted_over_epochs(had: list[int], one: int, other: int) -> None:
    epochs, positions = Epochs(), []
    for epoch, count in enumerate(had, 1):
        first = (epoch << INSIDE) + 7 * epoch
        epochs.begun(epoch, first)
        positions += range(first, first + count)
        if epoch < len(had):
            epochs.ended(epoch, count)
    if len(positions) < 2:
        return
    one, other = sorted((one % len(positions), other % len(positions)))
    if one < other:
        assert epochs.between(positions[one], positions[other]) == (other - one - 1, True)
    assert epochs.between((99 << INSIDE) + 4, (100 << INSIDE) + 7) == (0, False)


def test_an_epoch_that_is_not_over_is_not_known() -> None:
    epochs = Epochs()
    epochs.begun(1, 1 << INSIDE)
    epochs.begun(2, 2 << INSIDE)
    assert epochs.between(1 << INSIDE, (2 << INSIDE) + 3) == (3, False)
    epochs.ended(1, 5)
    assert epochs.between(1 << INSIDE, (2 << INSIDE) + 3) == (7, True)
    for epoch in range(3, 2000):
        epochs.begun(epoch, epoch << INSIDE)
        epochs.ended(epoch, 1)
    assert epochs.between(1 << INSIDE, 1999 << INSIDE) == (0, False)
    assert epochs.between(1990 << INSIDE, 1999 << INSIDE) == (8, True)


def page(journal: str, *positions: int) -> dict[str, Any]:
    payload = base64.b64encode(b"\1body").decode()
    event = {
        "epoch": 1, "tickets": [0], "time": 1.5, "length": 5, "payload": payload,
        "missed": 0, "at_least": False,
    }  # fmt: skip
    events = [{**event, "position": each} for each in positions]
    return {"topic": "t", "framing": "raw", "journal": journal, "events": events}


def records(journal: str, *positions: int) -> list[Record]:
    found = Course().records(page(journal, *positions))
    assert found is not None
    return found


def test_another_journal_is_read_from_its_beginning_and_what_is_gone_is_not_known() -> None:
    course = Course(Place("a", 90))
    assert course.after == 90
    first = course.records(page("a", 91, 92))
    assert first is not None
    course.done(first)
    assert (course.after, course.read, course.unknown) == (92, 2, 0)
    assert course.records(page("b")) is None
    assert course.after == 0
    assert course.records(page("b")) == []
    assert course.after == 0
    anew = course.records(page("b", 5, 6))
    assert anew is not None
    assert [each.at_least for each in anew] == [True, False]
    course.done(anew)
    assert (course.at, course.after, course.unknown) == (Place("b", 6), 6, 1)


async def put(file: Path, *several: list[Record]) -> Place | None:
    """Where it was when it was opened."""
    outlet = FileOutlet(str(file), "t")
    try:
        at = await outlet.open()
        for each in several:
            await outlet.put(each)
        return at
    finally:
        await outlet.close()


async def test_a_file_that_ends_anywhere_goes_on_behind_its_last_whole_line(tmp_path: Path) -> None:
    file, whole = tmp_path / "f", tmp_path / "whole"
    assert await put(whole, records("a", 1, 2), records("a", 3)) is None
    content = whole.read_bytes()
    lines = content.splitlines(keepends=True)
    assert [json.loads(line)["position"] for line in lines] == [1, 2, 3]
    assert json.loads(lines[0])["payload"] == base64.b64encode(b"\1body").decode()
    for end in range(len(content) + 1):
        file.write_bytes(content[:end])
        kept = content[:end].count(b"\n")
        assert await put(file) == (Place("a", kept) if kept else None)
        assert file.read_bytes() == b"".join(lines[:kept])


async def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "f"
    for content in (b"text\n", b"text", b'{"topic": "u", "journal": "a", "position": 1}\n', b"[]\n", b"{}"):
        file.write_bytes(content)
        with pytest.raises(LocalError):
            await put(file)
        assert file.read_bytes() == content
    with pytest.raises(LocalError, match="cannot be written"):
        await put(tmp_path)
    free = tmp_path / "free"
    outlet = FileOutlet(str(free), "t")
    await outlet.open()
    with pytest.raises(LocalError, match="another export"):
        await put(free)
    await outlet.close()


async def test_a_file_that_is_moved_away_is_followed_by_one_that_knows_the_place(tmp_path: Path) -> None:
    file = tmp_path / "f"
    outlet = FileOutlet(str(file), "t")
    assert await outlet.open() is None
    await outlet.put(records("a", 1))
    file.rename(tmp_path / "f.1")
    await outlet.put(records("a", 2))
    assert [json.loads(line)["position"] for line in file.read_text().splitlines()] == [1, 2]
    assert (tmp_path / "f.1").read_text().count("\n") == 1
    await outlet.close()
    assert await put(file) == Place("a", 2)


async def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    outlet = FileOutlet(str(file), "t")
    await outlet.open()
    await outlet.put(records("a", 1))
    written = os.write

    def half(descriptor: int, content: memoryview) -> int:
        if len(content) < 50:
            raise OSError(28, "No space left on device")
        return written(descriptor, content[: len(content) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(LocalError, match="No space"):
        await outlet.put(records("a", 2, 3))
    monkeypatch.undo()
    assert file.read_text().count("\n") == 1
    await outlet.put(records("a", 2, 3))
    await outlet.close()
    assert await put(file) == Place("a", 3)
