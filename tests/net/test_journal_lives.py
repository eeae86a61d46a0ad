"""Journals on either path and over the lives of a broker: the kernel keeps what it forwards."""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from support.life import EVENTS, PLAIN, TOPICS, Life, Members
from support.waiting import until

from tempos.wire import encode_event, encode_raw

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

KEPT = {topic: {**options, "journal": 512} for topic, options in TOPICS.items()}
NAMES = {EVENTS: "events", PLAIN: "plain"}


def payload(topic: int, number: int) -> bytes:
    """As :meth:`Life.send` sends it."""
    return encode_raw(topic, b"%d" % number) if topic == PLAIN else encode_event(topic, 9, number, 0, b"body")


def has_all(life: Life, topic: int) -> bool:
    return len(life.journal(NAMES[topic])) == life.sent.get(topic, 0)


def assert_all_kept(life: Life, groups: int) -> None:
    """Once, in their order, byte for byte; tickets grow by one from event to event of an epoch."""
    for topic in NAMES:
        until(lambda topic=topic: has_all(life, topic), lambda topic=topic: len(life.journal(NAMES[topic])))
        events = life.journal(NAMES[topic])
        payloads = [base64.b64decode(each["payload"]) for each in events]
        assert payloads == [payload(topic, number) for number in range(life.sent[topic])]
        for before, each in pairwise(events):
            if before["epoch"] == each["epoch"]:
                assert each["tickets"] == [ticket + 1 for ticket in before["tickets"]]
        assert len(events[-1]["tickets"]) == groups


def on_path(life: Life, path: str) -> None:
    until(
        lambda: all(each["path"] == path for each in life.ask("/v1/topics")), lambda: life.ask("/v1/topics")
    )


WAYS = {
    "native": ({"mode": "native"}, {}, "fast"),
    "generic": ({"mode": "generic"}, {}, "fast"),
    "tc": ({"mode": "native"}, {"fanout": "tc"}, "fast"),
    "off": ({"mode": "off"}, {}, "slow"),
}


@pytest.mark.parametrize(("way", "groups"), [("native", 3), ("generic", 1), ("tc", 3), ("off", 1)])
def test_every_path_keeps_the_same(life: Life, way: str, groups: int) -> None:
    fast, options, path = WAYS[way]
    with Members(life) as members:
        life.start({topic: {**each, **options} for topic, each in KEPT.items()}, fast)
        for name in NAMES.values():
            for group in range(groups):
                members.join(name, f"g{group}")
        on_path(life, path)
        for topic in NAMES:
            life.send(topic)
        assert_all_kept(life, groups)


def test_they_outlive_a_kill_and_go_on_with_the_next_broker(life: Life) -> None:
    with Members(life) as members:
        life.start(KEPT)
        for name in NAMES.values():
            members.join(name, "g")
        on_path(life, "fast")
        for topic in NAMES:
            life.send(topic)
        assert_all_kept(life, 1)
        life.kill()
        for topic in NAMES:
            life.send(topic)
        life.start(KEPT)
        assert_all_kept(life, 1)
        for topic in NAMES:
            life.send(topic)
        assert_all_kept(life, 1)
        life.kill()
        life.start({topic: {**each, "journal": 256} for topic, each in KEPT.items()})
        on_path(life, "fast")
        for topic in NAMES:
            life.send(topic)
        assert_all_kept(life, 1)


def test_a_topic_moves_between_paths_and_its_journal_goes_on(life: Life) -> None:
    with Members(life) as members:
        life.start(KEPT)
        for name in NAMES.values():
            members.join(name, "g")
        for policy, path in (("auto", "fast"), ("slow", "slow"), ("auto", "fast")):
            for name in NAMES.values():
                life.topology.broker.request("POST", f"/v1/topics/{name}/path", {"policy": policy})
            on_path(life, path)
            for topic in NAMES:
                life.send(topic)
            assert_all_kept(life, 1)


def bodies(life: Life, name: str) -> list[bytes]:
    return [base64.b64decode(each["payload"]) for each in life.journal(name)]


@pytest.mark.parametrize(
    ("state", "change"),
    [
        ("known", "another name"),
        ("known", "another framing"),
        ("known", "another id"),
        ("known", "the id of another"),
        ("off", "another name"),
    ],
)
def test_what_was_another_topic_s_is_never_given_to_the_members_of_this_one(
    life: Life, state: str, change: str
) -> None:
    """Its id, and with that its place in the kernel, is a topic's that begins when the broker starts."""
    wide = {**KEPT, 301: {"name": "wide", "journal": 512}}
    later = {
        "another name": {**wide, EVENTS: {**wide[EVENTS], "name": "others"}},
        "another framing": {**wide, EVENTS: {**wide[EVENTS], "framing": "raw"}},
        "another id": {PLAIN: wide[PLAIN], 301: wide[301], 2: {"name": "others", "journal": 512}},
        "the id of another": {EVENTS: {**wide[301]}, PLAIN: wide[PLAIN], 302: {**wide[EVENTS]}},
    }[change]
    options = {} if state == "known" else {"state": "off"}
    with Members(life) as members:
        life.start(wide, **options)
        for name in ("events", "plain", "wide"):
            members.join(name, "g")
        until(lambda: all(each["path"] == "fast" for each in life.ask("/v1/topics")))
        life.send(EVENTS)
        life.send(PLAIN)
        until(lambda: len(life.journal("events")) == 50)
        life.kill()
        life.start(later, **options)
        assert len(life.journal("plain")) == 50, "this one is what it was"
        for topic in later.values():
            if topic["name"] == "plain":
                continue
            assert life.journal(str(topic["name"])) == []
            late = members.join(str(topic["name"]), None, start=10)
            assert (late.stats.replayed, late.stats.replay_gone) == (0, 0)


def test_what_a_life_that_nobody_remembers_has_kept_is_not_taken_for_what_comes_now(life: Life) -> None:
    """Its last member had left, so nothing in the kernel tells of its epochs but the journal."""
    with Members(life) as members:
        for lived in range(3):
            life.start(KEPT, state="off")
            member = members.join("events", "g")
            until(lambda: life.ask("/v1/topics/events")["path"] == "fast")
            life.send(EVENTS, 20)
            until(lambda lived=lived: len(life.journal("events")) == 20 * (lived + 1))
            until(lambda member=member: member.stats.datagrams == 20)
            members.leave(member)
            life.kill()
        life.start(KEPT, state="off")
        assert bodies(life, "events") == [payload(EVENTS, number) for number in range(60)]


@pytest.mark.parametrize("way", WAYS)
def test_new_members_are_given_what_was_kept_over_lives_too(life: Life, way: str) -> None:
    fast, options, path = WAYS[way]
    topics = {topic: {**each, **options} for topic, each in KEPT.items()}
    with Members(life) as members:

        def assert_given(start: int) -> None:
            """As the last ones that were sent, and the next one live; nobody is owed anything."""
            for topic, name in NAMES.items():
                until(lambda topic=topic: has_all(life, topic))
                member = members.join(name, None, start=start)
                on_path(life, path)
                life.send(topic, 1)
                until(lambda member=member, start=start: member.waiting == start + 1)
                events = member.take(start + 1)
                while len(events) <= start:
                    events += member.take(start + 1)
                numbers = [int(each.body) if topic == PLAIN else each.sequence for each in events]
                assert numbers == list(range(life.sent[topic] - start - 1, life.sent[topic]))
                assert [each.is_replayed for each in events] == [True] * start + [False]
                assert (member.stats.datagrams, member.stats.missed) == (1, 0)
                members.leave(member)
                assert life.topic(name)["balanced"]

        life.start(topics, fast)
        for name in NAMES.values():
            members.join(name, "g")
        on_path(life, path)
        for topic in NAMES:
            life.send(topic)
        assert_given(30)
        assert_given(50)
        if path == "fast":
            life.kill()
            for topic in NAMES:
                life.send(topic)
            life.start(topics, fast)
            assert_given(90)


class Whole:
    """Sends a few events at a time, and has each read once, byte for byte, before the next ones leave."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._after = dict.fromkeys(NAMES, 0)

    def turn(self) -> None:
        for topic in NAMES:
            before = self._life.sent.get(topic, 0)
            self._life.send(topic, 20)
            wanted = sorted(payload(topic, number) for number in range(before, self._life.sent[topic]))
            found: list[bytes] = []

            def all_there(topic: int = topic, found: list[bytes] = found, wanted: int = len(wanted)) -> bool:
                page = self._life.ask(f"/v1/topics/{NAMES[topic]}/journal?after={self._after[topic]}")
                assert page["missed"] == 0
                found += [base64.b64decode(each["payload"]) for each in page["events"]]
                self._after[topic] = page["next"]
                return len(found) >= wanted

            until(all_there, lambda found=found: found)
            assert sorted(found) == wanted

    def while_it(self, act: Callable[[], None]) -> None:
        with ThreadPoolExecutor(1) as beside:
            acting = beside.submit(act)
            turns = 0
            while not acting.done() or not turns:
                self.turn()
                turns += 1
            acting.result()


@pytest.mark.parametrize("way", ["native", "generic", "tc"])
def test_its_size_changes_while_events_come(life: Life, way: str) -> None:
    fast, options, path = WAYS[way]
    topics = {topic: {**each, **options} for topic, each in KEPT.items()}
    with Members(life) as members:
        life.start(topics, fast)
        for name in NAMES.values():
            for group in ("g", "h"):
                members.join(name, group)
        on_path(life, path)
        whole = Whole(life)
        whole.turn()

        def change() -> None:
            now = "journal = 512"
            for events, room in ((1024, 100), (256, 100), (2048, 1472), (256, 40), (512, 64)):
                text = life.file.read_text()
                wanted = f"journal = {events}\njournal_bytes = {room}"
                assert now in text
                life.file.write_text(text.replace(now, wanted))
                assert life.topology.broker.request("POST", "/v1/reload")["changes"]
                now = wanted
                told = life.ask("/v1/topics/events")["journal"]
                assert (told["events"], told["bytes"], told["reason"]) == (events, room, "")

        whole.while_it(change)
        whole.turn()
        on_path(life, path)


def test_both_paths_write_while_a_topic_moves(life: Life) -> None:
    """The worker and the programs, on either processor."""
    topics = {topic: {**each, "class": "SQ"} for topic, each in KEPT.items()}
    with Members(life) as members:
        life.start(topics, quality={"worker_sq": True})
        for name in NAMES.values():
            members.join(name, "g")
        on_path(life, "fast")
        whole = Whole(life)

        def move() -> None:
            for policy in ("slow", "auto") * 4:
                for name in NAMES.values():
                    life.topology.broker.request("POST", f"/v1/topics/{name}/path", {"policy": policy})

        whole.while_it(move)
        on_path(life, "fast")
        for topic in NAMES:
            assert life.topic(NAMES[topic])["problems"] == []
