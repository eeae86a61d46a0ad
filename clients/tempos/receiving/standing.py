"""Where a subscriber stands with its broker: of which topics it is a member, and what became of it elsewhere.

Takes what the control session tells. Rules: whatever keeps this member from its events is told in the log,
once and not with each attempt; why it is out of a topic can be asked at any time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from tempos.control import Out
from tempos.errors import LocalError
from tempos.receiving.feeds import Feed
from tempos.receiving.intake import Intake
from tempos.session.events import (
    Accepted,
    Answered,
    BrokerBack,
    BrokerChanged,
    BrokerSilent,
    Failed,
    Forgotten,
    InForce,
    Listed,
    ProofAsked,
    RenewalFailed,
    SessionEvent,
    Subscribed,
    Unheard,
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
        #: Hears what the broker says of its fleet (:class:`.session.events.Listed`).
        self.on_fleet: Callable[[tuple[int, int, int] | None], None] = lambda told: None
        # Since when the broker is silent, monotonic; None: it answers.
        self._silent_since: float | None = None

    @property
    def silence(self) -> float:
        """Seconds for which the broker has not answered, once that is longer than a lease; else 0."""
        return 0.0 if self._silent_since is None else time.monotonic() - self._silent_since

    @property
    def away(self) -> Mapping[str, str]:
        """The topics of which this is no member now, and why."""
        return MappingProxyType(dict(self._away))

    def left(self, wants: Callable[[str], bool]) -> None:
        """Something was left on purpose; ``wants`` tells what is subscribed to still."""
        self._away = {name: why for name, why in self._away.items() if wants(name)}

    def on_event(self, event: SessionEvent) -> None:
        """Take what the session tells."""
        feeds = self._intake.feeds
        if isinstance(event, Subscribed):
            self._subscribed(event)
        elif isinstance(event, InForce):
            feed = feeds.get(event.topic)
            if feed is not None:
                feed.in_force(event.epoch, event.members)
                self._repair(feed, repaired=event.repaired)
                self._intake.redelivery.follow(feed, redelivered=event.redelivered)
        elif isinstance(event, Listed):
            self._intake.settle(event.asked)
            self.on_fleet(event.fleet)
        elif isinstance(event, ProofAsked):
            self._intake.doorman.expect_proof()
        elif isinstance(event, Accepted):
            for wanted in event.wanted:
                self._away.pop(wanted, None)
        elif isinstance(event, BrokerChanged):
            for feed in feeds:
                feed.new_broker()
            self._intake.redelivery.new_broker()
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
            self._silent_since = time.monotonic() - event.seconds
            _log.warning("the broker at %s has not answered for %.0f s", self._broker, event.seconds)
        elif isinstance(event, BrokerBack):
            self._silent_since = None
            _log.warning("the broker at %s answers again, after %.0f s", self._broker, event.seconds)
        elif isinstance(event, Unheard):
            self._unheard(event.events)
        elif isinstance(event, Answered) and event.op == "heartbeat":
            _log.warning("the broker at %s takes heartbeats again", self._broker)
        elif isinstance(event, Failed):
            _log.warning("%s: %s", event.op, event.error)

    def _unheard(self, events: int) -> None:
        if events:
            _log.warning(
                "the broker at %s has sent %d events here, and none has come: is there a firewall or a NAT "
                "that lets nothing from its data port through?",
                self._broker, events,
            )  # fmt: skip
        else:
            _log.warning("events of the broker at %s come through again", self._broker)

    def _subscribed(self, event: Subscribed) -> None:
        self._intake.doorman.joined()
        feed = self._intake.feeds.put(event.topic, event.group)
        feed.in_force(event.epoch, event.members)
        if feed.is_event:
            feed.sources.joined = event.clock
        self._repair(feed, repaired=event.repaired)
        self._intake.redelivery.follow(feed, redelivered=event.redelivered)
        if not self._intake.is_opening and not event.renewed:
            # By a filter, for it was made later.
            _log.info("member of %s at %s", event.topic.name, self._broker)
        if event.renewed:
            feed.tell_again()
            self._away.pop(event.topic.name, None)
            _log.warning("subscribed again to %s at %s", event.topic.name, self._broker)
        if not self._intake.is_opening:
            try:
                self._intake.check(feed)
            except LocalError as error:
                # Of another framing than at first, or made since.
                _log.warning("%s", error)
        self._intake.release(feed.topic.id)

    def _repair(self, feed: Feed, *, repaired: bool) -> None:
        if repaired and feed.is_event and feed.mended is None:
            self._intake.repairs.follow(feed)
        elif feed.mended is not None and not repaired:
            self._intake.repairs.unfollow(feed)

    def _forgotten(self, event: Forgotten) -> None:
        by_why: dict[str, list[str]] = {}
        for topic, told in event.topics.items():
            why = event.words.get(topic) or Out.WORDS.get(told, told) or "the broker does not know why"
            self._away[topic] = why
            by_why.setdefault(why, []).append(topic)
        for why, topics in by_why.items():
            more = f" and {len(topics) - _NAMED} more" if len(topics) > _NAMED else ""
            _log.warning(
                "no member of %s%s at the broker %s any more: %s",
                ", ".join(topics[:_NAMED]), more, self._broker, why,
            )  # fmt: skip
