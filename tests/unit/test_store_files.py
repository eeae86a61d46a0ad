"""The files that survive a process: what is found in them, and what is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tempos._abi import GROUPS_PER_TOPIC, TOPIC_MAX
from tempos._rows import Rows
from tempos_broker.lives.store import Store, Thing
from tempos_broker.tickets import FileTickets


def test_counters_go_on_in_the_next_process(tmp_path: Path) -> None:
    # So many that the file is not of whole pages by itself.
    rows = Rows(topics=41)
    rows.give(TOPIC_MAX, rows.count - 1)
    last = (TOPIC_MAX, 1, GROUPS_PER_TOPIC - 1)
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
