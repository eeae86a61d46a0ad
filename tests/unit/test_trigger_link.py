"""The way of triggers to the broker: topics that are others from one moment to the next."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tempos import LocalError, Publisher, Topic
from tempos._awaitables import DONE
from tempos_trigger.link import Link
from tempos_trigger.model import BrokerAt

WAS, IS = Topic(9, "signals"), Topic(11, "signals")


class _Publisher:
    """Has learnt what the topic is now; the link has not yet heard of that."""

    def __init__(self) -> None:
        self.got: list[Topic] = []

    def refusals(self) -> int:
        return 0

    def known(self, topic: str) -> Topic | None:
        return IS

    def publish(self, topic: Topic, body: bytes) -> Any:
        if topic != IS:
            raise LocalError("the name is another topic's")
        self.got.append(topic)
        return DONE

    async def request(self, topic: Topic, body: bytes, deadline: float) -> str:
        self.publish(topic, body)
        return "answer"


@pytest.mark.parametrize("way", ["publish", "request"])
async def test_a_topic_is_what_the_publisher_knows_by_now(way: str) -> None:
    link, publisher = Link(BrokerAt("127.0.0.1")), _Publisher()
    link.want(["signals"])
    link._publisher, link.there = cast(Publisher, publisher), True
    link._topics["signals"] = WAS
    if way == "publish":
        assert await link.publish("signals", b"body") is None
    else:
        assert cast(str, await link.request("signals", b"body", 1.0)) == "answer"
    assert publisher.got == [IS]
    assert link.there
    assert link._topics["signals"] == IS
