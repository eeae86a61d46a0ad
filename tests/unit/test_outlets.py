"""The topics of a publisher: each goes on where it was, whatever its name led to meanwhile."""

from __future__ import annotations

from tempos.model import Framing, Topic
from tempos.sending.outlets import Outlets

LIMIT = 1400


def topic(number: int, framing: Framing = Framing.EVENT) -> Topic:
    return Topic(id=number, name="a", framing=framing)


def test_a_topic_that_is_there_again_goes_on_with_its_sequence() -> None:
    outlets = Outlets(None, None)
    first = outlets.learnt("a", topic(1), None, LIMIT)
    first.single(7, 0, b"one")
    assert outlets.learnt("a", topic(1), None, LIMIT) is first
    outlets.gone("a")
    second = outlets.learnt("a", topic(2), None, LIMIT)
    assert (second.topic.id, second.sequence) == (2, 0)
    second.single(7, 0, b"two")
    # Of another framing it is another one, with whatever number.
    outlets.gone("a")
    assert outlets.learnt("a", topic(1, Framing.RAW), None, LIMIT).sequence == 0
    outlets.gone("a")
    # Who receives takes what comes with a number that was there for a double.
    assert outlets.learnt("a", topic(1), None, LIMIT) is first
    assert first.sequence == 1
    outlets.gone("a")
    assert outlets.of(topic(2), LIMIT) is second
    assert [each.topic.id for each in outlets.now.values()] == [2]
