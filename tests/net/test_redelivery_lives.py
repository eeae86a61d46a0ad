"""What members leave behind goes to others on every path, and over kills of the broker."""

from __future__ import annotations

from collections import Counter
from urllib.request import urlopen

import pytest
from support.life import EVENTS, Life, Members
from support.nodes import LIMIT
from support.waiting import until

from tempos import API_PORT, Event, Subscriber

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

QUEUE = {EVENTS: {"name": "events", "journal": 4096, "redeliver": True}}
LEASE = 2.0
WAYS = {
    "native": ({"mode": "native"}, {}, "fast"),
    "generic": ({"mode": "generic"}, {}, "fast"),
    "tc": ({"mode": "native"}, {"fanout": "tc"}, "fast"),
    "off": ({"mode": "off"}, {}, "slow"),
}


class Work:
    """What members of a group process."""

    def __init__(self) -> None:
        self.done: list[Event] = []

    def take(self, member: Subscriber, most: int = 10**6) -> None:
        """Process what is there, and ask for more."""
        while most and (event := member.poll()) is not None:
            self.done.append(event)
            most -= 1

    def has(self, member: Subscriber, events: int) -> bool:
        self.take(member)
        return len({event.sequence for event in self.done}) == events


def came(members: list[Subscriber], events: int) -> bool:
    return sum(member.stats.events for member in members) == events


def settled(life: Life, name: str = "work") -> bool:
    ledger = life.topic("events")
    assert ledger["balanced"], ledger["problems"]
    group = next(each for each in ledger["groups"] if each["name"] == name)
    assert group["orphaned"] == group["redelivered"] + group["pending"] + group["lapsed"]
    return bool(group["orphaned"] and not group["pending"])


@pytest.mark.parametrize(("way", "groups"), [("native", 3), ("generic", 1), ("tc", 3), ("off", 1)])
def test_on_every_path(life: Life, way: str, groups: int) -> None:
    fast, options, path = WAYS[way]
    with Members(life) as members:
        life.start({EVENTS: {**QUEUE[EVENTS], **options}}, fast, lease=LEASE)
        others = [members.join("events", f"other{group}") for group in range(groups - 1)]
        victim, stays = (members.join("events", "work") for _ in range(2))
        until(lambda: life.ask("/v1/topics/events")["path"] == path)
        life.send(EVENTS, 200)
        until(lambda: came([victim, stays], 200))
        work = Work()
        work.take(victim, 20)
        members.kill(victim)
        life.send(EVENTS, 100)
        until(lambda: work.has(stays, 300), lambda: life.topic("events"))
        until(lambda: settled(life))
        (group,) = (each for each in life.topic("events")["groups"] if each["name"] == "work")
        for other in others:
            until(lambda other=other: came([other], 300))  # type: ignore[misc]
    plain = Counter(event.sequence for event in work.done if not event.is_redelivered)
    again = [event.sequence for event in work.done if event.is_redelivered]
    assert max(plain.values()) == 1
    # All but what it told of.
    assert len(again) == group["redelivered"] == group["orphaned"] >= 80 + 50
    assert again == sorted(again, key=lambda sequence: sequence or 0)
    assert len(set(again)) == len(again)


def metrics(life: Life) -> list[str]:
    url = f"http://127.0.0.1:{API_PORT}/metrics"
    page: str = life.topology.broker.call(lambda: urlopen(url, timeout=LIMIT).read().decode())
    return page.splitlines()


def test_a_queue_without_members_waits_over_lives(life: Life) -> None:
    """Its events are in the kernel's memory, and so are the places where nobody is in the state."""
    work = Work()
    with Members(life) as members:
        life.start(QUEUE, lease=LEASE)
        only = members.join("events", "work")
        until(lambda: life.ask("/v1/topics/events")["path"] == "fast")
        life.send(EVENTS, 100)
        until(lambda: came([only], 100))
        members.kill(only)
        until(lambda: "has no member" in life.ask("/v1/topics/events")["reason"])
        assert 'tempos_member_ticketed_total{group="work",member="(nobody)",topic="events"} 0.0' in metrics(
            life
        )
        life.send(EVENTS, 300)
        # What waits in the sockets of one that is killed is lost there.
        until(lambda: life.topic("events")["received"] == 400)
        life.kill()
        life.start(QUEUE, lease=LEASE)
        until(lambda: "has no member" in life.ask("/v1/topics/events")["reason"])
        life.send(EVENTS, 300)
        next_ = members.join("events", "work")
        until(lambda: life.ask("/v1/topics/events")["path"] == "fast")
        until(lambda: work.has(next_, 700), lambda: life.topic("events"))
        until(lambda: settled(life))
        ledger = life.topic("events")
    again = [event.sequence for event in work.done if event.is_redelivered]
    assert sorted(again) == list(range(700))
    (group,) = ledger["groups"]
    assert (group["lapsed"], ledger["refused"]) == (0, {})


def test_a_broker_is_killed_before_and_while_it_hands_out(life: Life) -> None:
    work = Work()
    with Members(life) as members:
        life.start(QUEUE, lease=LEASE)
        victim, stays = (members.join("events", "work") for _ in range(2))
        until(lambda: life.ask("/v1/topics/events")["path"] == "fast")
        life.send(EVENTS, 1600)
        until(lambda: came([victim, stays], 1600))
        work.take(stays)
        members.kill(victim)
        life.kill()
        # The kernel goes on, with the dead one, too.
        life.send(EVENTS, 100)
        life.start({EVENTS: {**QUEUE[EVENTS], "journal": 3000}}, lease=LEASE)
        until(lambda: stays.stats.redelivered > 0)
        work.take(stays, 300)
        until(lambda: stays.stats.redelivered > 300)
        life.kill()
        life.send(EVENTS, 100)
        life.start(QUEUE, lease=LEASE)
        until(lambda: work.has(stays, 1800), lambda: life.topic("events"))
        until(lambda: settled(life))
        (group,) = life.topic("events")["groups"]
    plain = Counter(event.sequence for event in work.done if not event.is_redelivered)
    again = [event.sequence for event in work.done if event.is_redelivered]
    assert max(plain.values()) == 1
    assert group["lapsed"] == 0
    assert len(again) == len(set(again)), "the one that took it goes on where it was"
    assert again == sorted(again, key=lambda sequence: sequence or 0)
