"""What the broker tells of itself, as JSON values: whole, or topic by topic as somebody reads on.

Rule: whatever tells of every topic can be had as an iterator, so that the event loop serves in between; each
topic is then as it is at its turn, and one that is gone by then is left out. ``listed`` says how it tells of
groups and members: as lists, or (``iter``) as they are read, for there may be thousands in one topic.
"""

from __future__ import annotations

import operator
import os
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from tempos import Path, Topic, __version__
from tempos.control import Code
from tempos.model import NOBODY
from tempos_broker.account.changes import Changes
from tempos_broker.account.ledger import Ledger
from tempos_broker.account.quiet import Groups
from tempos_broker.awaited import Awaited
from tempos_broker.clients.catalogue import Clients
from tempos_broker.config.model import BrokerConfig, ClientConfig, Origin
from tempos_broker.config.topics import document_of
from tempos_broker.control.server import ControlServer
from tempos_broker.fleet.fleet import Fleet
from tempos_broker.lives.continuity import Continuity
from tempos_broker.members.health import Health
from tempos_broker.members.watch import Watch
from tempos_broker.membership import Refused, Registry, unknown_topic
from tempos_broker.paths import FastPath
from tempos_broker.state import TopicState
from tempos_broker.status import (
    Listed,
    as_values,
    kept_out_fields,
    labelled,
    path_fields,
    route_document,
    status_head,
    topic_document,
    topic_ledger_document,
    unattributed,
)
from tempos_broker.topics.catalogue import Catalogue
from tempos_broker.worker.slowpaths import SlowPaths

#: What makes a topic what it is, but for its id and name.
_OPTIONS = operator.attrgetter(*(each.name for each in fields(Topic) if each.name not in ("id", "name")))
#: What is told of a topic of which nothing was counted.
_NOTHING: Mapping[str, Any] = {
    "balanced": True, "received": 0, "refused": {}, "lost_before": {"at_least": 0}, "groups": (),
}  # fmt: skip
#: What to do where a topic has none.
_JOURNAL = "give it one: journal = N, in the file or by `tempos ctl topic set`"


#: Why nothing is sent to a place in a group.
NOBODY_THERE = "nobody is there: what comes waits for the next member, as far as the journal goes"


class Documents:
    """``config``, ``ready``: what holds now. What names a topic raises :class:`Refused` if there is none."""

    def __init__(
        self,
        *,
        config: Callable[[], BrokerConfig],
        ready: Callable[[], bool],
        states: Mapping[int, TopicState],
        catalogue: Catalogue,
        registry: Registry,
        ledger: Ledger,
        control: ControlServer,
        past: Continuity,
        fast: FastPath,
        slow: SlowPaths,
        watch: Watch,
        health: Health,
        awaited: Awaited,
        changes: Changes,
        clients: Clients,
        fleet: Fleet | None = None,
    ) -> None:
        self._config = config
        self._ready = ready
        self._states = states
        self._catalogue = catalogue
        self._registry = registry
        self._ledger = ledger
        self._control = control
        self._past = past
        self._fast = fast
        self._slow = slow
        self._watch = watch
        self._health = health
        self._awaited = awaited
        self._clients = clients
        self._fleet = fleet
        #: The last changes.
        self.changes = changes
        self._started = time.monotonic()
        #: Requests that the control API turned away at the door, by reason.
        self.api_refused: Counter[str] = Counter()

    # --- of every topic ---------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Everything a person looks for first."""
        changes = self.changed()["changes"]
        return {**self.status_head(), "topics": list(self.topics()), "changes": changes}

    def status_head(self) -> dict[str, Any]:
        """The same, without its ``topics``."""
        config = self._config()
        slow_counters, fast_counters = self._past.counting.of_no_topic()
        fleet = {} if self._fleet is None else {"fleet": self._fleet.document()}
        return fleet | status_head(
            broker={
                "version": __version__,
                "pid": os.getpid(),
                "uptime_s": round(time.monotonic() - self._started, 1),
                "name": config.name,
                "instance": self._past.instance,
                "ready": self._ready(),
                "state": self._past.keeper.where,
                "state_trouble": self._past.keeper.trouble,
                "awaited": self._awaited.document(),
            },
            slow=self._slow.status(),
            worker=self._slow.worker(),
            fast=self._fast.status(),
            control=self._control,
            api_refused=self.api_refused,
            registry=self._registry,
            states=self._states,
            slow_counters=slow_counters,
            fast_counters=fast_counters,
            drops=self._fast.drops(),
            now=time.monotonic(),
        )

    def fleet(self) -> dict[str, Any]:
        """The fleet that this broker is in, if it is in one."""
        return {"fleet": None if self._fleet is None else self._fleet.document()}

    def fleet_members(self) -> list[dict[str, Any]]:
        """Its members, wherever they are at home."""
        return [] if self._fleet is None else self._fleet.members()

    def topics(self, listed: Listed = list) -> Iterator[dict[str, Any]]:
        """Every topic, as the status has it."""
        return (self.tell(state, listed) for state in self.present())

    def ledger(self) -> dict[str, Any]:
        """The account of every topic; :mod:`tempos_broker.account` says what adds up."""
        topics = list(self.ledgers())
        return {"topics": topics, **self.ledger_tail(balanced=all(each["balanced"] for each in topics))}

    def ledger_tail(self, *, balanced: bool) -> dict[str, Any]:
        """The same, without its ``topics``; ``balanced``: whether they all are."""
        return {
            "balanced": balanced,
            "unattributed": labelled(unattributed(*self._past.counting.of_no_topic(), self._states)),
            "drops": as_values(self._fast.drops()),
        }

    def ledgers(self, listed: Listed = list) -> Iterator[dict[str, Any]]:
        """The account of every topic."""
        return (self.tell_ledger(state, listed) for state in self.present())

    def paths(self) -> Iterator[dict[str, Any]]:
        """Which path serves each topic, and why."""
        return ({"topic": state.route.topic.name, **path_fields(state)} for state in self.present())

    def routes(self, listed: Listed = list) -> Iterator[dict[str, Any]]:
        """Every route in force."""
        return (route_document(state, listed) for state in self.present())

    def options(self, origin: Origin | None = None) -> Iterator[dict[str, Any]]:
        """The options of every topic, or of those that this made, as they stand in a file."""
        for entry in list(self._catalogue):
            if origin is None or entry.origin is origin:
                yield {"origin": entry.origin.value, "options": document_of(entry)}

    def clients(self) -> dict[str, Any]:
        """Who may ask, and whether everybody has to sign."""
        return {"signed": self._clients.closed, "clients": [self.client(each) for each in self._clients]}

    def client(self, client: ClientConfig) -> dict[str, Any]:
        """A client, as far as anybody is told: not its key."""
        return {
            "id": client.id,
            "origin": client.origin.value,
            "publish": list(client.publish),
            "subscribe": list(client.subscribe),
            "durable": client.origin is Origin.FILE or self._past.has_store,
        }

    def kept_out(self) -> list[dict[str, Any]]:
        """Whom an operator keeps out."""
        now = time.monotonic()
        return [kept_out_fields(kept, now) for kept in self._registry.departures.all_kept_out(now)]

    def changed(self, since: int = 0) -> dict[str, Any]:
        """The last changes, those that came after the one of this number."""
        last, changes = self.changes.last, [each.document() for each in self.changes.since(since)]
        return {"instance": self._past.instance, "pid": os.getpid(), "last": last, "changes": changes}

    def on_fast_path(self) -> tuple[str, ...]:
        """The topics that the kernel forwards, by name."""
        states = self._states.values()
        return tuple(
            each.route.topic.name for each in states if each.choice and each.choice.path is Path.FAST
        )

    # --- of one -----------------------------------------------------------------------------

    def topic(self, name: str) -> dict[str, Any]:
        """What the status says of one topic."""
        return self.tell(self._state(name))

    async def tap(self, name: str, after: int, most: int, last: int | None) -> dict[str, Any]:
        """The next events of a topic's journal."""
        topic = self._state(name).route.topic
        told = await self._slow.journals.tap(topic, after, most, last)
        if told is None:
            journal = self._slow.journals.document(topic)
            why = f"cannot be had: {journal['reason']}" if journal else "was not asked for"
            raise Refused(Code.LIMIT, f"topic {name!r} has no journal: it {why}", _JOURNAL)
        return told

    def topic_ledger(self, name: str) -> dict[str, Any]:
        """The account of one topic."""
        return self.tell_ledger(self._state(name))

    def topic_options(self, name: str) -> dict[str, Any]:
        """The options of one topic, and who made it."""
        entry = self._catalogue.named(name)
        if entry is None:
            raise unknown_topic(name, (each.topic.name for each in self._catalogue))
        return {"origin": entry.origin.value, "options": document_of(entry)}

    def topic_path(self, name: str) -> dict[str, Any]:
        """Which path serves a topic, and why."""
        return {"topic": name, **path_fields(self._state(name))}

    def topic_route(self, name: str) -> dict[str, Any]:
        """The route in force of a topic."""
        return route_document(self._state(name))

    def _state(self, name: str) -> TopicState:
        return self._states[self._registry.topic(name).id]

    def present(self) -> Iterator[TopicState]:
        """What holds of every topic."""
        for topic in list(self._registry.topics):
            state = self._states.get(topic.id)
            if state is not None and state.route.topic.name == topic.name:
                yield state

    def is_present(self, state: TopicState) -> bool:
        """Whether that still holds of a topic."""
        return self._states.get(state.route.topic.id) is state

    def have_counted(self, topics: Sequence[int]) -> frozenset[int]:
        """Those of these topics of which anything was ever counted."""
        return self._past.counting.have_counted(topics)

    def rests_on(self, state: TopicState) -> tuple[object, ...] | None:
        """What is told of a topic of which nothing was counted rests on this; None: it changes by itself."""
        topic, groups = state.route.topic, self._at_rest(state)
        if groups is None:
            return None
        return self._config(), self._catalogue.numbered(topic.id), state.route, state.choice, state.moved

    def likeness(self, state: TopicState) -> tuple[Hashable, ...] | None:
        """Of topics that rest and are equal in this the same is told, but for id, name and epoch.

        None: there is hardly another one like it, for it has more than one member, or what is its own.
        """
        topic, groups = state.route.topic, self._at_rest(state)
        if groups is None or topic.journal or topic.ports or self._fleet is not None:
            return None
        if groups and (len(groups) > 1 or len(groups[0][1]) > 1):
            return None
        entry, choice = self._catalogue.numbered(topic.id), state.choice
        if entry is None:
            return None
        path = None if choice is None else (choice.path, choice.reason, state.moves)
        return _OPTIONS(topic), entry.origin, state.policy, path, groups, state.route.groups

    def _at_rest(self, state: TopicState) -> Groups | None:
        """The groups of a topic of which is told the same until somebody changes something; None: not so.

        Nobody has to be left out there, and none of its members may have a lease, for leases run.
        """
        topic = state.route.topic
        groups = self._ledger.quiet_groups(topic.id)
        if groups is None or state.version != self._registry.version(topic.id):
            return None
        if not groups:
            return None if state.route.groups or self._registry.states(topic.id) else groups
        if topic.journal or topic.ports or self._fleet is not None:
            return None
        for _, holders in groups:
            if any(holder.client is not None for holder in holders):
                return None
        if absent := self._watch.absent:
            for group in state.route.groups:
                if any((each.ip, each.source) in absent for each in group.members):
                    return None
        return groups

    def brief(self, state: TopicState) -> dict[str, Any]:
        """As much of a topic that rests as there can be anything wrong with."""
        topic = state.route.topic
        journal = self._slow.journals.document(topic)
        return {"name": topic.name, **path_fields(state), "journal": journal, **_NOTHING}

    def tell(self, state: TopicState, listed: Listed = list) -> dict[str, Any]:
        """A topic, as the status has it."""
        topic = state.route.topic.id
        entry = self._catalogue.numbered(topic)
        return topic_document(
            state,
            registry=self._registry,
            ledger=self._ledger,
            consumers=self._control.reports.consumers,
            counted=self._past.counting.counted([topic]),
            latency=self._fast.latency([topic]).get(topic),
            volume=self._past.counting.fast_volume(topic),
            measured=self._slow.measured(topic),
            # One that is just going is in no catalogue any more.
            origin=entry.origin if entry is not None else Origin.RUN_TIME,
            durable=self._past.has_store,
            now=time.monotonic(),
            left_out=lambda port, towards: (
                NOBODY_THERE
                if towards[0].startswith(NOBODY)
                else self._health.why(state.route.topic.id, towards[0], port) or self._watch.why(towards)
            ),
            journal=self._slow.journals.document(state.route.topic),
            listed=listed,
        )

    def tell_ledger(self, state: TopicState, listed: Listed = list) -> dict[str, Any]:
        """The account of a topic."""
        counted = self._past.counting.counted([state.route.topic.id])
        return topic_ledger_document(state, self._ledger, self._control.reports.consumers, counted, listed)
