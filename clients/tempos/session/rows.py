"""How memberships are told in control datagrams: names and filters as they fit requests, topics as rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tempos.control import MAX_WANTED, WANTED_BYTES
from tempos.model import Framing, Quality, Topic

_STRICT, _STAMPED, _PRIORITY = 8, 16, 7


def about(topic: Topic) -> int:
    """Class, priority and framing of a topic in one number."""
    strict, stamped = topic.quality is Quality.SQ, topic.framing is Framing.EVENT
    return topic.priority | strict * _STRICT | stamped * _STAMPED


def topic_about(topic: int, name: str, told: int) -> Topic:
    """A topic by its id, its name and :func:`about`."""
    quality = Quality.SQ if told & _STRICT else Quality.BQ
    framing = Framing.EVENT if told & _STAMPED else Framing.RAW
    return Topic(topic, name, quality, told & _PRIORITY, framing)


def in_requests(wanted: Iterable[str]) -> Iterator[list[str]]:
    """Names and filters as they fit requests."""
    some: list[str] = []
    room = WANTED_BYTES
    for each in wanted:
        size = len(each.encode()) + 3
        if some and (size > room or len(some) == MAX_WANTED):
            yield some
            some, room = [], WANTED_BYTES
        some.append(each)
        room -= size
    if some:
        yield some
