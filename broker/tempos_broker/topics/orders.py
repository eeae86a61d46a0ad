"""Topics made, changed and removed by an order while the broker runs.

Rules: an order is carried out whole when it returns, or it raises and nothing has changed; what is made is
written down before it is served, and what is removed before its id can mean something else, so that a kill at
any moment leaves either. What stands in the file is the file's to change. The work of an order goes by the
topic that it names, however many others there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tempos import Framing, Topic, Unavailable
from tempos._abi import NARROW, TOPIC_MIN
from tempos._rows import Rows
from tempos.errors import one_line
from tempos_broker.account.accounts import Account
from tempos_broker.account.changes import Kind
from tempos_broker.account.ledger import Ledger
from tempos_broker.config.model import BrokerConfig, Origin, TopicConfig
from tempos_broker.config.topics import BadTopic, document_of, read_topic
from tempos_broker.lives.continuity import Continuity
from tempos_broker.membership import Refused, Registry, unknown_topic
from tempos_broker.paths import FastPath
from tempos_broker.reload import topic_changes
from tempos_broker.routes import Routes
from tempos_broker.topics.catalogue import Catalogue
from tempos_broker.topics.former import MADE
from tempos_broker.topics.locks import Gate, KeyedLocks
from tempos_broker.worker.slowpaths import SlowPaths
from tempos_daemon.schema import count, show

#: Seconds between two looks at what the members of a topic that is drained have confirmed.
DRAIN_LOOK = 0.02
#: Seconds that what waits of such a topic has to go to its members.
SERVE_FIRST = 1.0


class Conflict(Refused):
    """The order contradicts what there is."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__("conflict", text, hint)


class NotKept(Refused):
    """The order could not be written down, or the kernel does not take it; nothing has changed."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__("not kept", text, hint)


@dataclass(frozen=True, slots=True)
class Removed:
    """A topic that is no more: how many members it had, and its account at the end.

    ``ticketed``, ``confirmed``: datagrams, of those members that a drain waited for.
    """

    topic: Topic
    members: int
    ticketed: int
    confirmed: int
    account: dict[str, Any]


class TopicOrders:
    """What an operator orders; raises :class:`Refused`, or :class:`BadTopic` with every fault.

    ``gate``: orders pass it together, a reload alone. ``config`` gives what else holds of the broker;
    ``account`` the account of a topic as JSON values.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        gate: Gate,
        config: Callable[[], BrokerConfig],
        *,
        registry: Registry,
        ledger: Ledger,
        routes: Routes,
        past: Continuity,
        fast: FastPath,
        slow: SlowPaths,
        rows: Rows,
        account: Callable[[str], dict[str, Any]],
    ) -> None:
        self._catalogue = catalogue
        self._gate = gate
        self._config = config
        self._registry = registry
        self._ledger = ledger
        self._routes = routes
        self._past = past
        self._fast = fast
        self._slow = slow
        self._rows = rows
        self._account = account
        self._names: KeyedLocks[str] = KeyedLocks()
        self._stopping = False

    @property
    def durable(self) -> bool:
        """Whether what is made at run time is there again in the next life."""
        return self._past.has_store

    def stop_waiting(self) -> None:
        """No drain waits for members to confirm any more."""
        self._stopping = True

    async def add(self, document: Mapping[str, Any]) -> Topic:
        """Make a topic of these options, as they would stand in the file; the id may be left out."""
        name = document.get("name")
        async with self._turn(name if isinstance(name, str) else ""):
            catalogue = self._catalogue
            entry = replace(
                read_topic(dict(document), self._config(), self._free_id(document)),
                origin=Origin.RUN_TIME,
            )
            self._check_new(entry)
            topic = entry.topic
            self._open([topic])
            # From here on nobody else gets its name or id, or its place.
            catalogue.put(entry)
            self._rows.give(topic.id)
            try:
                await self._write(entry)
                try:
                    await self._begin(entry)
                except Unavailable as error:
                    await self._keep(topic.name, None)
                    raise _refused_by_kernel(error) from error
            except BaseException:
                catalogue.drop(entry, None)
                self._rows.free(topic.id)
                self._slow.let_go([topic])
                raise
            await self._routes.swap(topic.id)
            ends = "" if self.durable else "; it ends with this broker, which keeps no state"
            self._tell(topic.name, f"({topic.id}) made at run time{ends}")
            return topic

    async def set(self, name: str, changes: Mapping[str, Any]) -> Topic:
        """Change options of a topic that was made at run time; null sets one back to its default."""
        async with self._turn(name):
            old = self._made(name, "change it there, and reload")
            document = {**document_of(old), **changes}
            new = replace(read_topic(document, self._config(), old.topic.id), origin=Origin.RUN_TIME)
            self._check_same(old.topic, new.topic)
            self._check_ports(new.topic)
            self._registry.check([new])
            words = list(topic_changes(old, new))
            if not words:
                return old.topic
            self._open([new.topic])
            try:
                await self._write(new)
            except BaseException:
                self._slow.let_go([new.topic])
                raise
            async with self._routes.held((new.topic.id,)):
                try:
                    await self._fast.put(new.topic)
                except Unavailable as error:
                    self._slow.let_go([new.topic])
                    await self._write(old)
                    raise _refused_by_kernel(error) from error
                self._catalogue.put(new)
                self._registry.amend(new, time.monotonic())
                await self._slow.change(put=[new.topic])
                self._routes.redescribe(new.topic)
            await self._routes.swap(new.topic.id)
            for each in words:
                self._tell(name, f"changed: {each}")
            return new.topic

    async def remove(self, name: str, *, drain: bool = False, patience: float = 5.0) -> Removed:
        """Remove a topic that was made at run time.

        One with members only with ``drain``: they get what has come by now, and are told why they are out;
        what they confirm within ``patience`` seconds is in the account with which it ends.
        """
        async with self._turn(name):
            entry = self.check_removal(name, drain=drain)
            topic = entry.topic
            members = self._registry.member_count(topic.id)
            self._registry.close(topic.id)
            try:
                accounts = await self._let_out(topic, patience) if members else []
                account = self._account(name)
                if not await self._keep(name, None):
                    raise NotKept(
                        f"that topic {name!r} is no more could not be written into {self._past.keeper.where}",
                        "it would be back after a restart, so it stays; ask again when that can be written",
                    )
            except BaseException:
                self._registry.reopen(topic.id)
                raise
            await self._end(entry)
            ticketed = sum(each.ticketed for each in accounts)
            outstanding = sum(each.outstanding for each in accounts)
            self._tell(name, f"({topic.id}) removed: it had {count(members, 'member')}")
            return Removed(topic, members, ticketed, ticketed - outstanding, account)

    def check_removal(self, name: str, *, drain: bool) -> TopicConfig:
        """The topic, if it can be removed so."""
        entry = self._made(name, "take it out there, and reload")
        members = self._registry.member_count(entry.topic.id)
        if members and not drain:
            own = f", {len(entry.members)} of them of its own options" if entry.members else ""
            raise Conflict(
                f"topic {name!r} has {count(members, 'member')}{own}",
                "let them leave first, or drain it: they get what is on its way, are told, and are out",
            )
        return entry

    def _tell(self, name: str, words: str) -> None:
        self._routes.changes.tell(Kind.TOPIC, f"topic {name} {words}", topic=name)

    # --- steps ------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        async with self._gate.together(), self._names.one(name):
            yield

    def _check_new(self, entry: TopicConfig) -> None:
        catalogue, topic = self._catalogue, entry.topic
        if (known := catalogue.named(topic.name)) is not None:
            of = "the file has it" if known.origin is Origin.FILE else "made at run time"
            raise Conflict(f"there is a topic {topic.name!r} ({known.topic.id}) already: {of}",
                           "take another name, or change that one")  # fmt: skip
        if (known := catalogue.numbered(topic.id)) is not None:
            raise Conflict(f"id {topic.id} is that of topic {known.topic.name!r}",
                           "take another, or none: the broker gives one that is free")  # fmt: skip
        if len(self._rows) >= self._rows.topics:
            raise Conflict(f"there are {len(self._rows)} topics already, as many as limits.topics allows",
                           "remove one, or raise it in the file and restart the broker")  # fmt: skip
        self._check_ports(topic)
        self._registry.check([entry])

    def _check_ports(self, topic: Topic) -> None:
        for known in self._catalogue if topic.ports else ():
            if known.topic.id != topic.id and (shared := set(topic.ports).intersection(known.topic.ports)):
                raise Conflict(f"port {min(shared)} is that of topic {known.topic.name!r}",
                               "take another, or change that one")  # fmt: skip

    def _free_id(self, document: Mapping[str, Any]) -> int | None:
        """The id of a topic that names none; a foreign one has a wide one."""
        foreign = document.get("framing") == Framing.FOREIGN.value or bool(document.get("ports"))
        return self._catalogue.ids.lowest(time.monotonic(), NARROW if foreign else TOPIC_MIN)

    def _open(self, topics: Sequence[Topic]) -> None:
        """Have the ports of foreign topics."""
        try:
            self._slow.listen(topics)
        except Unavailable as error:
            raise Conflict(one_line(error), "nothing was changed") from error

    def _check_same(self, old: Topic, new: Topic) -> None:
        """What makes a topic the one it is stays: publishers and members go by it."""
        faults = [
            f"topic: {key} is {_plain(after)}; allowed: {_plain(before)}, as it is: "
            "with another it is another topic, so remove this one and add that"
            for key, before, after in (
                ("id", old.id, new.id), ("name", old.name, new.name), ("framing", old.framing, new.framing),
            )
            if before != after
        ]  # fmt: skip
        if faults:
            raise BadTopic(faults)

    def _made(self, name: str, otherwise: str) -> TopicConfig:
        entry = self._catalogue.named(name)
        if entry is None:
            raise unknown_topic(name, (each.topic.name for each in self._catalogue))
        if entry.origin is Origin.FILE:
            raise Conflict(f"topic {name!r} stands in the configuration file", otherwise)
        return entry

    async def _write(self, entry: TopicConfig) -> None:
        if not await self._keep(entry.topic.name, document_of(entry)):
            raise NotKept(
                f"topic {entry.topic.name!r} could not be written into {self._past.keeper.where}",
                "nothing was changed; ask again when that can be written",
            )

    async def _keep(self, name: str, document: dict[str, Any] | None) -> bool:
        """Have the options of a topic in the state, or it gone from there; whether that was done."""
        return await self._past.keeper.put(MADE, {name: document}, again=False)

    async def _begin(self, entry: TopicConfig) -> None:
        topic = entry.topic
        async with self._routes.held((topic.id,)):
            await self._fast.put(topic)
            self._past.begin_anew(topic.id)
            self._ledger.begin(topic.id, topic.name, stamped=topic.framing is Framing.EVENT)
            self._routes.begin(topic)
            await self._slow.change(put=[topic])
            self._registry.begin(entry, time.monotonic())

    async def _let_out(self, topic: Topic, patience: float) -> list[Account]:
        """Take all members out once they have got what has come; waits for what they confirm of it."""
        await self._slow.served(topic.id, SERVE_FIRST)
        now = time.monotonic()
        deadline = now + patience
        gone = self._registry.clear(topic.id, now)
        for _, holder in gone:
            if holder.client is not None:
                self._registry.drain_one(holder, topic.id, deadline)
        await self._routes.swap(topic.id)
        accounts = [
            account
            for group, holder in gone
            if holder.client is not None
            and (account := self._ledger.account(topic.id, group, holder)) is not None
        ]
        while any(each.outstanding for each in accounts) and time.monotonic() < deadline:
            if self._stopping:
                break
            await asyncio.sleep(DRAIN_LOOK)
        return accounts

    async def _end(self, entry: TopicConfig) -> None:
        topic = entry.topic
        async with self._routes.held((topic.id,)):
            state = self._routes.states[topic.id]
            if state.route.groups:
                await self._routes.clear(state)
            self._catalogue.drop(entry, time.monotonic())
            await self._fast.drop(topic.id)
            await self._slow.change([topic.id])
            self._registry.end(topic)
            self._routes.end(state.route, None)
            await self._past.keeper.save_ended([state.route])
            self._rows.free(topic.id)


def _refused_by_kernel(error: Unavailable) -> NotKept:
    return NotKept(f"the fast path refuses: {one_line(error)}", "nothing was changed")


def _plain(value: Any) -> str:
    return show(getattr(value, "value", value))
