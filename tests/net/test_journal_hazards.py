"""What may go wrong with journals over the lives of a broker: told, and never wrong bytes."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from support.life import EVENTS, Life, Members
from support.waiting import LIMIT, until

from tempos import Event, Subscriber
from tempos._abi import FLAG_DUP, OFFSET_VERSION_FLAGS
from tempos.wire import decode_event
from tempos_bpf.maps import pinned_map

pytestmark = [pytest.mark.kernel, pytest.mark.netns]


def repaired(journal: int) -> dict[int, dict[str, object]]:
    return {EVENTS: {"name": "events", "class": "SQ", "journal": journal}}


def on_fast_path(life: Life) -> None:
    until(lambda: life.ask("/v1/topics/events")["path"] == "fast", lambda: life.ask("/v1/topics/events"))


class Lossy:
    """A member that loses some of what comes, before it sees it."""

    def __init__(self, members: Members, **options: Any) -> None:
        self.member: Subscriber = members.join("events", None, repair=LIMIT, **options)
        #: Whether a datagram is lost.
        self.loses: Callable[[bytes], bool] = lambda datagram: False
        self.lost = 0
        reader, receive = self.member._reader, self.member._intake.receive

        def through(datagram: bytes) -> None:
            if datagram[0] == EVENTS and self.loses(datagram):
                self.lost += 1
            else:
                receive(datagram)

        assert reader is not None
        reader._receive = through  # type: ignore[attr-defined]
        self.got: list[Event] = []

    def has(self, events: int) -> bool:
        while (event := self.member.poll()) is not None:
            self.got.append(event)
        return len(self.got) >= events

    @property
    def numbers(self) -> list[int | None]:
        return [event.sequence for event in self.got]


def is_again(datagram: bytes) -> bool:
    return bool(datagram[OFFSET_VERSION_FLAGS] & FLAG_DUP)


def fifth(datagram: bytes) -> bool:
    return decode_event(datagram).sequence % 5 == 4


def test_a_broker_is_killed_while_it_repairs_and_the_next_one_goes_on(life: Life) -> None:
    with Members(life) as members:
        life.start(repaired(4096))
        lossy = Lossy(members)
        on_fast_path(life)
        # All that is sent again is lost, too.
        lossy.loses = lambda datagram: is_again(datagram) or fifth(datagram)
        life.send(EVENTS, 200)
        until(lambda: lossy.has(160) and lossy.lost > 60, lambda: (len(lossy.got), lossy.lost))
        life.kill()
        life.send(EVENTS, 100)
        until(lambda: lossy.has(240), lambda: len(lossy.got))
        lossy.loses = lambda datagram: not is_again(datagram) and fifth(datagram)
        life.start(repaired(4096))
        life.send(EVENTS, 20)
        until(lambda: lossy.has(320), lambda: (len(lossy.got), lossy.member.stats))
        stats = lossy.member.stats
        assert sorted(each or 0 for each in lossy.numbers) == list(range(320))
        assert all(event.body == b"body" for event in lossy.got)
        assert (stats.missed, stats.given_up, stats.repaired) == (0, 0, 64)
        members.leave(lossy.member)
        ledger = life.topic("events")
        assert ledger["balanced"], ledger
        (group,) = ledger["groups"]
        assert (group["lost"], group["given_up"]) == (0, 0)


def test_what_a_slow_member_asks_for_too_late_is_given_up_and_told(life: Life) -> None:
    with Members(life) as members:
        life.start(repaired(64))
        lossy = Lossy(members, ordered=True)
        on_fast_path(life)
        life.send(EVENTS, 10)
        until(lambda: lossy.has(10))
        lossy.loses = lambda datagram: True
        for _ in range(10):
            life.send(EVENTS, 50)
            until(lambda: lossy.lost >= life.sent[EVENTS] - 10, lambda: lossy.lost)
        lossy.loses = lambda datagram: False
        life.send(EVENTS, 1)
        until(lambda: lossy.has(11) and lossy.numbers[-1] == 510, lambda: (lossy.numbers, lossy.member.stats))
        stats, numbers = lossy.member.stats, lossy.numbers
        gone = 511 - len(numbers)
        assert numbers[:10] == [*range(10)]
        assert numbers[-64:] == [*range(447, 511)], "what the journal holds"
        # What was on its way as the journal came round is older than what that holds; some of it was lost.
        assert [each or 0 for each in numbers] == sorted({each or 0 for each in numbers}), (
            "in their order, once"
        )
        assert 0 < gone < 500
        assert stats.given_up == stats.missed == gone
        assert sum(event.missed for event in lossy.got) == gone
        members.leave(lossy.member)
        ledger = life.topic("events")
        (group,) = ledger["groups"]
        assert ledger["balanced"], ledger
        assert group["lost"] == group["given_up"] == gone


def numbers_in(events: list[dict[str, Any]]) -> list[int]:
    """What stands there, each of which has to be an event as it was sent."""
    decoded = [decode_event(base64.b64decode(each["payload"])) for each in events]
    assert all(each.publisher == 9 and bytes(each.bodies[0]) == b"body" for each in decoded)
    assert [each["position"] for each in events] == sorted({each["position"] for each in events})
    return [each.sequence for each in decoded]


def another_version(life: Life) -> None:
    """Of all that is pinned."""
    with pinned_map(life.pins.path("identity")) as identity:
        identity.update(0, b"another!")


def another_size(life: Life) -> None:
    """What the journal says of itself is not what it is."""
    with pinned_map(life.pins.path("journals")) as journals:
        inner = journals.inner(EVENTS)
        assert inner is not None
        with inner:
            head = bytearray(inner.lookup(0) or b"")
            head[4] += 1
            inner.update(0, bytes(head))


@pytest.mark.parametrize("change", [another_version, another_size])
def test_a_journal_of_another_layout_is_begun_anew(life: Life, change: Callable[[Life], None]) -> None:
    with Members(life) as members:
        life.start(repaired(256))
        lossy = Lossy(members)
        on_fast_path(life)
        life.send(EVENTS, 100)
        until(lambda: lossy.has(100))
        until(lambda: numbers_in(life.journal("events")) == list(range(100)), lambda: life.journal("events"))
        life.kill()
        change(life)
        life.start(repaired(256))
        # Nothing of what was there, or all of it; never anything else.
        assert numbers_in(life.journal("events")) in ([], list(range(100)))
        until(lambda: life.topic("events")["groups"] != [])
        on_fast_path(life)
        before = len(life.journal("events"))
        life.send(EVENTS, 50)
        until(lambda: lossy.has(150), lambda: (len(lossy.got), lossy.member.stats))
        until(lambda: len(life.journal("events")) == before + 50, lambda: life.journal("events"))
        assert numbers_in(life.journal("events"))[-50:] == list(range(100, 150))
        assert lossy.member.stats.missed == 0


def test_lives_without_state_go_on_in_the_journal_that_they_find(life: Life) -> None:
    with Members(life) as members:
        for turn in range(6):
            life.start(repaired(512), state="off")
            here = [members.join("events", f"g{turn}") for _ in range(1 + turn % 3)]
            until(lambda: any(group["name"] == f"g{turn}" for group in life.topic("events")["groups"]))  # noqa: B023
            on_fast_path(life)
            life.send(EVENTS, 40)
            until(lambda: sum(each.stats.events for each in here) >= 40,  # noqa: B023
                  lambda: [each.stats for each in here])  # fmt: skip  # noqa: B023
            until(lambda: numbers_in(life.journal("events"))[-40:] == list(range(40 * turn, 40 * turn + 40)),  # noqa: B023
                  lambda: numbers_in(life.journal("events")))  # fmt: skip
            found = numbers_in(life.journal("events"))
            assert found == sorted(set(found)), "each once, in their order"
            for each in here:
                members.leave(each)
            life.kill()
