"""State on a disk that fills: the broker serves on or says why not, and nothing it had is thrown away."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.brokers import LIMIT, get, post, serving
from support.ports import free_ports
from support.waiting import until

from tempos.blocking import Subscriber
from tempos_bench.nodes.disk import SmallDisk

pytestmark = pytest.mark.netns

PAGE = 4096
TOPIC = '[[topic]]\nid = {id}\nname = "topic-{id}"\n'


class Machine:
    """A broker with its state on a small disk, started again and again."""

    def __init__(self, folder: Path, size: int) -> None:
        (folder / "disk").mkdir()
        self.disk = SmallDisk(folder / "disk", size)
        self.state = folder / "disk" / "state.db"
        self.data, self.control, self.api = free_ports(3)
        self.file, self.log = folder / "broker.toml", folder / "log"
        self.configure(1)

    def configure(self, *topics: int) -> None:
        self.file.write_text(
            f'[broker]\nlisten = ["127.0.0.1"]\ndata_port = {self.data}\ncontrol_port = {self.control}\n'
            f'api = "127.0.0.1:{self.api}"\n[fastpath]\nmode = "off"\n[control]\nheartbeat = 0.2\n'
            f'[state]\nfile = "{self.state}"\n' + "".join(TOPIC.format(id=topic) for topic in topics)
        )

    def serving(self, how: signal.Signals = signal.SIGKILL):  # type: ignore[no-untyped-def]
        return serving(self.file, self.log, prefix=self.disk.prefix, how=how)

    def epochs(self) -> dict[str, int]:
        document = get(self.api, "/v1/ledger")
        assert document["balanced"], document
        return {topic["name"]: topic["epoch"] for topic in document["topics"]}

    def wrong(self) -> dict[str, bool]:
        return {each["code"]: each["now"] for each in get(self.api, "/v1/wrong")["wrong"]}

    def join(self, topic: int) -> Subscriber:
        return Subscriber("127.0.0.1", f"topic-{topic}", group="g", control_port=self.control)

    def left(self) -> list[str]:
        return sorted(each.name for each in self.disk.seen(self.disk.folder).iterdir())


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path, 4 << 20)
    with made.disk:
        yield made


@pytest.mark.parametrize("pages", [0, 3, 20, 70])
def test_a_first_start_without_room_says_so_and_one_with_room_goes_on(machine: Machine, pages: int) -> None:
    """Too few pages for the database, for its log, for the counters: no signal, and nothing put aside."""
    machine.disk.fill(pages * PAGE)
    for _ in range(2):
        told = subprocess.run(
            (*machine.disk.prefix, sys.executable, "-m", "tempos_broker", "-c", str(machine.file)),
            capture_output=True, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip
        assert told.returncode == 1, told.stderr
        assert str(machine.state) in told.stderr
        assert 'set state.file to another, or to "off"' in told.stderr
        assert not any(".broken-" in name for name in machine.left())
    machine.disk.free()
    with machine.serving():
        assert machine.epochs() == {"topic-1": 1}


def test_what_could_not_be_written_is_written_once_there_is_room_and_no_epoch_comes_twice(
    machine: Machine,
) -> None:
    def stored() -> dict[int, int]:
        # Of a copy, for the broker keeps the file to itself.
        copy = machine.file.parent / "copy.db"
        for ending in ("", "-wal"):
            source = machine.disk.seen(machine.state).with_name(machine.state.name + ending)
            copy.with_name(copy.name + ending).write_bytes(source.read_bytes() if source.exists() else b"")
        database = sqlite3.connect(copy)
        try:
            return dict(database.execute("SELECT id, epoch FROM topic").fetchall())
        finally:
            database.close()

    with machine.serving():
        before = machine.epochs()["topic-1"]
        machine.disk.fill()
        # The log beside the database has room of its own until it has to grow.
        with machine.join(1):
            pass
        for number in range(2, 30):
            machine.configure(*range(1, number + 1))
            assert post(machine.api, "/v1/reload")["changes"]
        until(lambda: "cannot be written" in machine.log.read_text(), "a disk that is full")
        until(lambda: machine.wrong().get("TD426") is True, "it is told as wrong")
        with machine.join(29):
            pass
        known = machine.epochs()
        assert known["topic-1"] > before
        machine.disk.free()
        until(lambda: "can be written again" in machine.log.read_text(), "a disk with room")
        until(lambda: machine.wrong().get("TD426") is not True, "it is wrong no longer")
        # None of them has a member, or is ever touched again.
        until(lambda: {f"topic-{id_}": epoch for id_, epoch in stored().items()} == known, f"{known}")
        machine.disk.fill()
        with machine.join(1), machine.join(2):
            known = machine.epochs()
    # Killed, with a disk that is still full: what is stored is older than what was in force.
    for _ in range(2):
        with machine.serving():
            now = machine.epochs()
            assert all(now[name] >= known[name] for name in known), (known, now)
            with machine.join(1):
                known = machine.epochs()
    assert not any(".broken-" in name for name in machine.left())


def test_files_that_were_put_aside_do_not_pile_up(machine: Machine) -> None:
    for number in range(6):
        machine.disk.seen(machine.state).write_bytes(b"no database, but as long as one" * 200)
        # SQLite would find all of the former one in there.
        machine.disk.seen(machine.state.with_name("state.db-wal")).unlink(missing_ok=True)
        machine.disk.seen(machine.state.with_name(f"state.db.broken-20200101-00000{number}")).touch()
        with machine.serving():
            assert machine.epochs() == {"topic-1": 1}
    assert len([name for name in machine.left() if ".broken-" in name]) <= 3
