"""Where a subscriber stands with its broker: of which topics it is a member, and what became of it elsewhere.

Takes what the control session tells. Rules: whatever keeps this member from its events is told in the log,
once and not with each attempt; why it is out of a topic can be asked at any time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType

from tempos._intake import Intake
from tempos.control import Out
from tempos.errors import LocalError
from tempos.session.events import (
    Answered,
    BrokerBack,
    BrokerChanged,
    BrokerSilent,
    Failed,
    Forgotten,
    RenewalFailed,
    SessionEvent,
    Subscribed,
)

#: Topics that one line of the log names.
_NAMED = 8

_log = logging.getLogger("tempos.subscriber")


class Standing:
    """The standing of one subscriber at ``broker``; what it learns of its topics it tells the ``intake``."""

    def __init__(self, broker: str, intake: Intake) -> None:
        self._broker = broker
        self._intake = intake
        self._away: dict[str, str] = {}

    @property
    def away(self) -> Mapping[str, str]:
        """The topics of which this is no member now, and why."""
        return MappingProxyType(dict(self._away))

    def left(self, topic: str) -> None:
        """A topic was left on purpose."""
        self._away.pop(topic, None)

    def on_event(self, event: SessionEvent) -> None:
        """Take what the session tells."""
        feeds = self._intake.feeds
        if isinstance(event, Subscribed):
            self._subscribed(event)
        elif isinstance(event, BrokerChanged):
            for feed in feeds:
                feed.new_broker()
        elif isinstance(event, Forgotten):
            for feed in feeds:
                if feed.name in event.topics:
                    feed.forgotten()
            self._forgotten(event)
        elif isinstance(event, RenewalFailed):
            why = str(event.error)
            if self._away.get(event.topic) != why:
                self._away[event.topic] = why
                _log.warning("cannot subscribe to %s again, will go on trying: %s", event.topic, why)
        elif isinstance(event, BrokerSilent):
            _log.warning("the broker at %s has not answered for %.0f s", self._broker, event.seconds)
        elif isinstance(event, BrokerBack):
            _log.warning("the broker at %s answers again, after %.0f s", self._broker, event.seconds)
        elif isinstance(event, Answered) and event.op == "heartbeat":
            _log.warning("the broker at %s takes heartbeats again", self._broker)
        elif isinstance(event, Failed):
            _log.warning("%s: %s", event.op, event.error)

    def _subscribed(self, event: Subscribed) -> None:
        feed = self._intake.feeds.put(event.topic, event.group)
        if feed.is_event:
            feed.tracker.in_force(event.epoch)
            feed.sources.joined = event.clock
        if event.renewed:
            self._away.pop(event.topic.name, None)
            _log.warning("subscribed again to %s at %s", event.topic.name, self._broker)
            try:
                self._intake.check(feed)
            except LocalError as error:
                # Another framing than the one it had at first.
                _log.warning("%s", error)

    def _forgotten(self, event: Forgotten) -> None:
        by_why: dict[str, list[str]] = {}
        for topic, told in event.topics.items():
            why = Out.WORDS.get(told, told) or "the broker does not know why"
            self._away[topic] = why
            by_why.setdefault(why, []).append(topic)
        for why, topics in by_why.items():
            more = f" and {len(topics) - _NAMED} more" if len(topics) > _NAMED else ""
            _log.warning(
                "no member of %s%s at the broker %s any more: %s",
                ", ".join(topics[:_NAMED]), more, self._broker, why,
            )  # fmt: skip
