"""Numbers that two processes share, and finishing what a dead one began."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tempos import Framing, Group, Member, Quality, Reason, Route, Topic
from tempos._rows import Rows
from tempos._slots import TICKETS
from tempos.wire import encode_raw
from tempos_broker.config.model import Limits
from tempos_broker.paths import LocalTickets
from tempos_broker.slowpath.book import ARRIVED
from tempos_broker.slowpath.core import SlowPath
from tempos_broker.slowpath.sockets import DataSocket
from tempos_broker.tickets import CountedTickets, FileTickets

shared = pytest.importorskip("tempos_broker.shared", reason="the compiled helper is not built")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd is Linux's")

#: A wide topic, in the last row of all tables.
TOPIC, EPOCH, GROUPS, COUNT = 40_000, 300, 3, 5


class Scene:
    """A worker's memory and everybody's counters, as the broker and the worker have them."""

    def __init__(self) -> None:
        rows, theirs = Rows(), Rows()
        rows.give(TOPIC, rows.count - 1)
        theirs.follow(rows.given())
        self.descriptor = shared.anonymous("test", shared.Estate.size(rows, timed=True))
        self.estate = shared.Estate(self.descriptor, rows, timed=True)
        self.estate.begin()
        self.tickets, self.counts = FileTickets(None, rows), FileTickets(None, rows)
        self.counted = CountedTickets(self.tickets, self.counts)
        share = shared.Share(
            self.tickets.descriptor, self.tickets.stride, self.counts.descriptor, self.counts.stride
        )
        # The worker's own view of the same memory.
        self.theirs = shared.Estate(self.descriptor, theirs, timed=True)
        self.worker = shared.NotedTickets(share, self.theirs, theirs)

    def run(self, stop: int = GROUPS) -> None:
        """What a core does for one run; ``stop``: dead after so many groups."""
        self.theirs.book.counts[TOPIC][ARRIVED] += COUNT
        for group in range(stop):
            self.worker.draw(TOPIC, EPOCH, group, COUNT)
        if stop == GROUPS:
            self.theirs.book.counts[TOPIC][Reason.FORWARDED] += COUNT

    def finish(self) -> int:
        done = shared.finish_run(self.estate, self.counted, self.tickets, lambda topic, epoch: GROUPS)
        return int(done + shared.write_off(self.estate))

    def drawn(self) -> list[int]:
        return [self.tickets.read(TOPIC, EPOCH, group) for group in range(GROUPS)]


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.tickets.close()
    made.counts.close()
    os.close(made.descriptor)


def test_all_draw_from_one_sequence_and_the_account_is_read_by_another(scene: Scene) -> None:
    assert scene.worker.draw(TOPIC, EPOCH, 0, 4) == 0
    assert scene.counted.draw(TOPIC, EPOCH, 0, 3) == 4
    assert scene.worker.draw(TOPIC, EPOCH, 0, 1) == 7
    assert scene.counted.read(TOPIC, EPOCH, 0) == scene.worker.read(TOPIC, EPOCH, 0) == 8
    assert scene.counted.drawn(TOPIC) == 8
    assert scene.counted.read(TOPIC, EPOCH + 1, 0) == scene.counted.read(TOPIC, EPOCH, 1) == 0
    scene.theirs.book.counts[TOPIC][ARRIVED] += 2
    scene.theirs.book.counts[TOPIC][Reason.NO_MEMBER] += 2
    scene.theirs.book.lose(TOPIC, EPOCH + 1, TICKETS - 1, 1)
    assert scene.estate.book.counters() == {TOPIC: {Reason.NO_MEMBER: 2}}
    assert scene.estate.book.lost(TOPIC, EPOCH + 1, TICKETS - 1) == 1
    scene.counted.reset(TOPIC, EPOCH)
    assert scene.worker.read(TOPIC, EPOCH, 0) == 0


@pytest.mark.parametrize("stop", range(GROUPS + 1))
def test_a_run_cut_short_anywhere_is_finished_once(scene: Scene, stop: int) -> None:
    scene.run()
    scene.run(stop)
    if 0 < stop < GROUPS:
        assert len(set(scene.drawn())) == 2, "the groups are apart"
    # Not begun: written off. Begun: every group draws for it, and the members miss it.
    lost = COUNT if stop < GROUPS else 0
    assert scene.estate.unsent() == (COUNT * GROUPS * (2 if stop == GROUPS else 1)), "nothing was sent"
    assert scene.finish() == lost
    rounds = 1 if stop == 0 else 2
    assert scene.drawn() == [rounds * COUNT] * GROUPS
    assert scene.counted.drawn(TOPIC) == rounds * COUNT
    counted = {Reason.FORWARDED: rounds * COUNT} | ({Reason.WORKER_LOST: COUNT} if stop == 0 else {})
    assert scene.estate.book.counters() == {TOPIC: counted}
    assert (scene.finish(), scene.estate.unsent()) == (0, 0), "only once"
    scene.run()
    assert scene.finish() == 0
    assert scene.drawn() == [(rounds + 1) * COUNT] * GROUPS


@pytest.mark.parametrize("stage", [1, 2])
def test_a_run_noted_and_not_drawn_is_drawn_and_counted_once(scene: Scene, stage: int) -> None:
    scene.run()
    note = scene.theirs.note
    scene.theirs.book.counts[TOPIC][ARRIVED] += COUNT
    note.target, note.stage = note.target + COUNT, stage
    if stage == 2:
        scene.counts.draw(TOPIC, 0, 0, COUNT)
    assert scene.finish() == COUNT
    assert scene.drawn() == [2 * COUNT] * GROUPS
    assert scene.counted.drawn(TOPIC) == 2 * COUNT


def test_what_a_kill_leaves_between_the_socket_and_the_book_is_counted(scene: Scene) -> None:
    """The kernel itself leaves the receipt: nothing of the killed process need run behind the system call."""
    batched = pytest.importorskip("tempos_broker.slowpath.batched")
    topics = (Topic(TOPIC, "raw", framing=Framing.RAW),)
    core: SlowPath = SlowPath(topics, LocalTickets(), 64, 64, scene.theirs.book)
    batch = batched.Batch(core, topics, Limits(batch=16, datagram=64), receipts=scene.theirs.receipts)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        inlet = DataSocket(far, watches_drops=False)
        for sent in (5, 16, 3):
            for _ in range(sent):
                near.send(encode_raw(TOPIC, b"\1"))
            assert batch.receive(inlet, 16) == sent
            assert scene.estate.unbooked() == 0
        # Dead right behind the system call: what it took is in nothing that it wrote.
        core.refused = core.arrived = _killed
        for _ in range(4):
            near.send(encode_raw(TOPIC, b"\1"))
        with pytest.raises(KeyboardInterrupt):
            batch.receive(inlet, 16)
        assert scene.finish() == 28, "in the book and waiting, or not even there"
        assert scene.estate.book.counters() == {0: {Reason.WORKER_LOST: 4}, TOPIC: {Reason.WORKER_LOST: 24}}
        assert scene.finish() == 0, "only once"


@pytest.mark.parametrize("groups", [2, 100])
def test_what_was_sent_is_no_loss_of_the_killed(scene: Scene, groups: int) -> None:
    batched = pytest.importorskip("tempos_broker.slowpath.batched")
    member = Member("127.0.0.1", 9)
    topic = Topic(TOPIC, "raw", framing=Framing.RAW)
    core: SlowPath = SlowPath((topic,), scene.worker, 64, 64, scene.theirs.book)
    batch = batched.Batch(core, (topic,), Limits(batch=16, datagram=64), receipts=scene.theirs.receipts)
    route = Route(topic, EPOCH, tuple(Group(f"g{number}", (member,)) for number in range(groups)))
    core.swap(route)
    batch.swap(route)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        batch.channels(Quality.BQ, [DataSocket(out, watches_drops=False)], None)
        for _ in range(5):
            near.send(encode_raw(TOPIC, b"\1"))
        batch.receive(DataSocket(far, watches_drops=False), 16)
        delivery = core.next_best_effort(16)
        assert delivery is not None
        assert scene.estate.unsent() == 5 * groups
        batch.stage(Quality.BQ, delivery)
        batch.flush(Quality.BQ, most=9)
        assert 0 < scene.estate.unsent() < 5 * groups
        batch.flush(Quality.BQ)
        assert scene.estate.unsent() == 0


def test_a_run_for_more_groups_than_tickets_is_finished_for_all(scene: Scene) -> None:
    groups = TICKETS + 36
    topic = Topic(TOPIC, "raw", framing=Framing.RAW)
    core: SlowPath = SlowPath((topic,), scene.worker, 64, 64, scene.theirs.book)
    core.swap(Route(topic, EPOCH, tuple(Group(f"g{n}", (Member("127.0.0.1", 9),)) for n in range(groups))))
    core.arrived(TOPIC, COUNT, Nothing())
    draw, drawn = scene.worker.draw, 0

    def until_killed(*what: int) -> int:
        nonlocal drawn
        if drawn == TICKETS - 1:
            raise KeyboardInterrupt
        drawn += 1
        return draw(*what)

    scene.worker.draw = until_killed
    with pytest.raises(KeyboardInterrupt):
        core.next_best_effort(16)
    assert shared.finish_run(scene.estate, scene.counted, scene.tickets, lambda *_: groups) == COUNT
    assert [scene.tickets.read(TOPIC, EPOCH, number) for number in range(TICKETS + 1)] == [
        COUNT
    ] * TICKETS + [0]
    scene.theirs.book.lose(TOPIC, EPOCH, groups - 1, 2)
    scene.theirs.book.lose(TOPIC, EPOCH, TICKETS, 1)
    assert sum(scene.estate.book.lost(TOPIC, EPOCH, group) for group in range(groups)) == 3


class Nothing:
    """The load of a run that nobody looks into."""

    def split(self, count: int) -> tuple[Nothing, Nothing]:
        return self, self

    def release(self) -> None:
        return


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_counters_in_a_file_go_on_where_another_life_left_them(tmp_path: Path) -> None:
    first = FileTickets(tmp_path / "tickets", Rows())
    assert [first.draw(3, 1, 0, 5), first.draw(3, 1, 0, 2)] == [0, 5]
    first.close()
    first.close()
    again = FileTickets(tmp_path / "tickets", Rows())
    assert again.read(3, 1, 0) == 7
    assert isinstance(again, shared.Shareable)
    again.close()


def test_no_pointer_leaves_the_memory(scene: Scene) -> None:
    numbers = shared.SharedNumbers(scene.descriptor, 4)
    assert numbers.add(3, 1) == 0
    for index in (-1, 4):
        with pytest.raises(shared.LocalError, match=f"number {index} of 4"):
            numbers.load(index)
    numbers.close()
    with pytest.raises(shared.LocalError):
        numbers.load(0)
