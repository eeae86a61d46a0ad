"""Members behind a neighbour that does not answer are left out, until the kernel has resolved it."""

from __future__ import annotations

from tempos_broker.members.presence import ASK_AGAIN, LASTS, Hop, Presence, State

A, B = ("10.0.2.2", None), ("10.9.9.9", "10.0.2.1")
HERE, GATEWAY = Hop(3, "10.0.2.2"), Hop(3, "10.0.2.9")
WAYS = {A: HERE, B: GATEWAY}


def test_who_is_known_or_not_asked_for_yet_is_there() -> None:
    presence = Presence()
    assert not presence.look(WAYS, {HERE: State.KNOWN}, 0.0)
    assert presence.absent == frozenset()
    assert presence.unresolved == 0


def test_one_that_fails_is_absent_at_once_and_one_that_takes_long_after_a_while() -> None:
    presence = Presence()
    assert presence.look(WAYS, {HERE: State.FAILED, GATEWAY: State.RESOLVING}, 0.0)
    assert presence.absent == {A}
    assert presence.unresolved == 2
    assert not presence.look(WAYS, {HERE: State.RESOLVING, GATEWAY: State.RESOLVING}, LASTS / 2)
    assert presence.look(WAYS, {HERE: State.RESOLVING, GATEWAY: State.RESOLVING}, LASTS)
    assert presence.absent == {A, B}
    assert presence.hop(B) == GATEWAY


def test_where_a_socket_is_full_nobody_waits_for_one_that_is_being_resolved() -> None:
    presence = Presence()
    assert presence.look(WAYS, {HERE: State.RESOLVING, GATEWAY: State.KNOWN}, 0.0, full=True)
    assert presence.absent == {A}


def test_it_is_there_again_when_it_is_known_and_not_because_its_entry_is_gone() -> None:
    presence = Presence()
    presence.look(WAYS, {HERE: State.FAILED}, 0.0)
    assert not presence.look(WAYS, {}, 1.0)
    assert presence.absent == {A}
    assert presence.look(WAYS, {HERE: State.KNOWN}, 2.0)
    assert presence.absent == frozenset()
    assert presence.unresolved == 0


def test_one_whose_way_leads_elsewhere_or_nowhere_waits_for_nobody() -> None:
    presence = Presence()
    presence.look(WAYS, {HERE: State.FAILED}, 0.0)
    assert presence.look({A: GATEWAY}, {GATEWAY: State.KNOWN, HERE: State.FAILED}, 1.0)
    assert presence.absent == frozenset()
    presence.look(WAYS, {HERE: State.FAILED}, 2.0)
    assert presence.look({}, {}, 3.0)
    assert presence.absent == frozenset()


def test_one_that_no_way_leads_to_is_absent_if_that_lasts_until_one_does() -> None:
    presence, only = Presence(), {A: HERE}
    assert not presence.look(only, {HERE: State.KNOWN}, 0.0, nowhere={B})
    assert not presence.look(WAYS, {HERE: State.KNOWN}, LASTS / 2)
    assert not presence.look(only, {HERE: State.KNOWN}, LASTS, nowhere={B})
    assert presence.look(only, {HERE: State.KNOWN}, LASTS * 2, nowhere={B})
    assert presence.absent == {B}
    assert presence.to_ask({HERE: State.KNOWN}, ASK_AGAIN * 2) == [], "there is nobody to be asked for"
    assert presence.look(WAYS, {HERE: State.KNOWN}, LASTS * 3)
    assert presence.absent == frozenset()


def test_who_is_absent_is_asked_for_again_and_again_but_not_while_that_is_under_way() -> None:
    presence = Presence()
    presence.look(WAYS, {HERE: State.FAILED}, 0.0)
    assert presence.to_ask({HERE: State.FAILED}, ASK_AGAIN / 2) == []
    assert presence.to_ask({HERE: State.RESOLVING}, ASK_AGAIN) == []
    assert presence.to_ask({HERE: State.FAILED}, ASK_AGAIN) == [HERE]
    assert presence.behind([HERE]) == [A]
    assert presence.to_ask({}, ASK_AGAIN * 1.5) == []
    assert presence.to_ask({}, ASK_AGAIN * 2) == [HERE]
