"""All parts of a platform: where they are asked, which of them are kept alive here, and what they do now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tempos_controller.config.model import BrokerPlace, Node
from tempos_controller.force.local import BROKER, PATIENCE, STOP_BY, broker_child, daemon_name, node_children
from tempos_controller.force.store import Store
from tempos_controller.parts.child import Child
from tempos_controller.parts.http import Another, Away, Own, Refused, Remote
from tempos_controller.parts.roles import BrokerPart, InvokerPart, TriggerPart, calls_in, signals_in
from tempos_controller.plan.wanted import Calls, Parts, Signals
from tempos_daemon.token import read_token

Made = Mapping[str, Mapping[str, Any]]
#: Documents that are known by their revisions.
KNOWN = 1024
#: Seconds between two looks at a part that does not answer yet.
LOOK = 0.05


@dataclass(slots=True)
class Seen:
    """What all parts do, as far as they answer.

    ``topics``: every topic of the broker; ``away``: what gave no answer, and why; ``silent``: those of them
    that let the time for it pass.
    """

    topics: dict[str, dict[str, Any]] = field(default_factory=dict)
    invokers: dict[str, Calls] = field(default_factory=dict)
    triggers: dict[str, Signals] = field(default_factory=dict)
    away: dict[str, str] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)


class Fleet:
    """The parts of a platform. ``changed`` is called when one that is kept alive here starts or ends."""

    def __init__(self, store: Store, changed: Callable[[], None]) -> None:
        self._store = store
        self._changed = changed
        self._nodes: dict[str, Node] = {}
        self.broker: BrokerPart | None = None
        self.invokers: dict[str, InvokerPart] = {}
        self.triggers: dict[str, TriggerPart] = {}
        self.children: dict[str, Child] = {}
        self._known: dict[str, Calls | Signals] = {}

    # --- which there are --------------------------------------------------------------------

    def set_broker(self, place: BrokerPlace) -> None:
        """Have this broker; started here if it is to be."""
        child = broker_child(place, self._store, self._changed)
        if child is not None:
            self.children[BROKER] = child
            child.start()

        def token() -> str:
            if place.token_file:
                return read_token(place.token_file, "broker.api_token_file")
            return place.token

        address = (place.api_host, place.api_port)
        self.broker = BrokerPart(Remote(BROKER, address, token, _own(child, "broker.api")))

    def add_nodes(self, nodes: Iterable[Node]) -> None:
        """Have these nodes, too; what is to be started of them is."""
        for node in nodes:
            if node.name in self._nodes:
                continue
            self._nodes[node.name] = node
            started = node_children(node, self._store, self._changed)
            for child in started.values():
                self.children[child.name] = child
                child.start()
            if node.invoker[1]:
                kept = started.get("invoker")
                token = _token(kept, self._store, node.invoker_token_file)
                remote = Remote(f"invoker {node.name}", node.invoker, token, _own(kept, "node.invoker"))
                self.invokers[node.name] = InvokerPart(remote)
            if node.trigger[1]:
                kept = started.get("trigger")
                token = _token(kept, self._store, node.trigger_token_file)
                remote = Remote(f"trigger {node.name}", node.trigger, token, _own(kept, "node.trigger"))
                self.triggers[node.name] = TriggerPart(remote)

    async def keep_nodes(self, nodes: Iterable[Node]) -> None:
        """Have no others any more, and those as they are now; what was started of them ends."""
        kept = {node.name: node for node in nodes}
        for name, node in list(self._nodes.items()):
            if kept.get(name) == node:
                continue
            del self._nodes[name]
            for sort, parts in (("trigger", self.triggers), ("invoker", self.invokers)):
                child = self.children.pop(daemon_name(sort, name), None)
                if child is not None:
                    await child.stop(STOP_BY[sort], PATIENCE)
                part = parts.pop(name, None)
                if part is not None:
                    await part.remote.close()

    def differing(self, nodes: Iterable[Node]) -> list[Node]:
        """Those that are elsewhere than the node of their name is now."""
        return [node for node in nodes if self._nodes.get(node.name, node) != node]

    def leaving(self, nodes: Iterable[Node]) -> set[str]:
        """Parts that run elsewhere, of nodes that are not among these, by what they are called."""
        gone = self._nodes.keys() - {node.name for node in nodes}
        return {
            what for what in self.remotes if what.partition(" ")[2] in gone and self.child_of(what) is None
        }

    @property
    def remotes(self) -> dict[str, Remote]:
        """The API of each part, by what it is called."""
        found = [] if self.broker is None else [self.broker.remote]
        found += [part.remote for part in (*self.invokers.values(), *self.triggers.values())]
        return {remote.what: remote for remote in found}

    def child_of(self, what: str) -> Child | None:
        """What keeps a part alive here, by what the part is called."""
        return self.children.get(what.replace(" ", "-", 1))

    # --- what they do -----------------------------------------------------------------------

    async def answering(self, patience: float) -> dict[str, str]:
        """Wait until all answer, at most so long; those that do not, and why."""
        found = await asyncio.gather(*(self._answers(each, patience) for each in self.remotes.values()))
        return {what: why for what, why in found if why}

    async def _answers(self, remote: Remote, patience: float) -> tuple[str, str]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        child = self.child_of(remote.what)
        while True:
            try:
                await remote.ask("GET", "/v1/health")
            except Refused as error:
                why = str(error)
            except Away as error:
                why = self._why(error)
            else:
                return remote.what, ""
            given_up = remote.is_closed or (child is not None and child.is_hopeless)
            if given_up or loop.time() >= deadline:
                return remote.what, why
            await asyncio.sleep(LOOK)

    def _why(self, error: Away) -> str:
        """Why a part does not answer: of one that ends again and again, rather what it said last."""
        child = self.child_of(error.what)
        if child is None or not child.reason or isinstance(error, Another):
            return error.why
        return f"it {child.reason}" if child.pid is None or child.is_hopeless else error.why

    def remember(self, *those: Calls | Signals) -> None:
        """Know these again by their revisions: a part may tell more of them than it was given, or less."""
        for each in those:
            self._known[each.document()["revision"]] = each
        while len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]

    async def look(self, *wanted: Parts) -> Seen:
        """What all do now; ``wanted`` is known by its revisions."""
        for parts in wanted:
            self.remember(*parts.invokers.values(), *parts.triggers.values())
        seen = Seen()
        assert self.broker is not None, "set before anybody looks"
        invokers = {name: part.document() for name, part in self.invokers.items()}
        triggers = {name: part.document() for name, part in self.triggers.items()}
        topics, *documents = await asyncio.gather(
            self._try(self.broker.topics(), seen),
            *(self._try(each, seen) for each in (*invokers.values(), *triggers.values())),
        )
        seen.topics = topics or {}
        for name, document in zip(invokers, documents, strict=False):
            if document is not None:
                known = self._known.get(str(document.get("revision")))
                seen.invokers[name] = known if isinstance(known, Calls) else calls_in(document)
        for name, document in zip(triggers, documents[len(invokers) :], strict=True):
            if document is not None:
                known = self._known.get(str(document.get("revision")))
                seen.triggers[name] = known if isinstance(known, Signals) else signals_in(document)
        for what in self.remotes:
            if (child := self.child_of(what)) is not None:
                if what in seen.silent:
                    child.silent()
                else:
                    child.heard()
        return seen

    async def _try(self, question: Any, seen: Seen) -> Any:
        try:
            return await question
        except Away as error:
            seen.away[error.what] = self._why(error)
            if error.silent:
                seen.silent.add(error.what)
        except Refused as error:
            seen.away[error.what] = error.detail
        return None

    # --- the end ----------------------------------------------------------------------------

    async def stop(self) -> bool:
        """End what was started here: triggers first, the broker last; whether all ended by themselves."""
        ended = True
        for sort in ("trigger", "invoker", BROKER):
            those = [child for name, child in self.children.items() if name.partition("-")[0] == sort]
            ended &= all(await asyncio.gather(*(child.stop(STOP_BY[sort], PATIENCE) for child in those)))
        await self._close()
        return ended

    async def leave(self) -> None:
        """Let all run."""
        for child in self.children.values():
            await child.leave()
        await self._close()

    async def _close(self) -> None:
        for remote in self.remotes.values():
            await remote.close()


def _own(child: Child | None, key: str) -> Own | None:
    return None if child is None else Own(lambda: child.pid, key)


def _token(child: Child | None, store: Store, file: str) -> Callable[[], str]:
    path = str(store.token(child.name)) if child is not None else file
    return lambda: read_token(path, "the token") if path else ""


def now_of(seen: Seen, made: Made, wanted: Parts) -> tuple[Parts, Parts, list[str]]:
    """What is in force and what is wanted, for the planner, and what contradicts.

    Topics that are not the Controller's are in neither: it goes by them as they are, if the platform has them
    so, too. A part that gives no answer is in neither.
    """
    problems = []
    now_topics: dict[str, Mapping[str, Any]] = {}
    wanted_topics: dict[str, Mapping[str, Any]] = {}
    for name, options in wanted.topics.items():
        there = seen.topics.get(name)
        if there is None or name in made:
            wanted_topics[name] = options
            continue
        problems += [
            f"topic {name} is there already, made by {_maker(there)}, with {key} {there.get(key)!r}; "
            f"allowed: {value!r}, as the platform has it, or a topic of another name"
            for key, value in options.items()
            if there.get(key) != value
        ]
    for name, stated in made.items():
        if (there := seen.topics.get(name)) is not None:
            keys = stated.keys() | wanted.topics.get(name, {}).keys()
            now_topics[name] = {key: there.get(key) for key in keys}
    if "broker" in seen.away:
        now_topics, wanted_topics = {}, {}
    now = Parts(now_topics, seen.invokers, seen.triggers)
    reached = Parts(
        wanted_topics,
        {name: each for name, each in wanted.invokers.items() if name in seen.invokers},
        {name: each for name, each in wanted.triggers.items() if name in seen.triggers},
    )
    return now, reached, problems


def _maker(options: Mapping[str, Any]) -> str:
    return "the broker's file" if options["origin"] == "file" else "somebody else"
