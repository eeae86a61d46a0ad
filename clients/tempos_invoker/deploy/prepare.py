"""Makes ready what a deployment needs, beside what is in force; what cannot be had is told all at once.

First the workers of every function that is new or of another version, and the topics of results and
errors; only where all of that is there are groups joined, for from then on events come. Where anything
fails, all of it is undone, and nothing has changed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tempos import ConfigError, Framing, Quality, TemposError
from tempos.errors import one_line
from tempos_invoker.core.step import Step
from tempos_invoker.deploy.model import Deployment, Function
from tempos_invoker.sources import Place, Source
from tempos_invoker.way import Way
from tempos_invoker.workers.team import Team

#: A function in a class, which a team serves.
TeamKey = tuple[str, Quality]
MakeTeam = Callable[[Function, Quality], Team]
MakeSource = Callable[[Place], Source]


def teams_of(deployment: Deployment) -> dict[TeamKey, Function]:
    """The teams that a deployment needs. A function that no step names serves who calls it by hand."""
    functions = {function.name: function for function in deployment.functions}
    keys = {(step.function, step.quality): functions[step.function] for step in deployment.steps}
    named = {name for name, _ in keys}
    return {
        **keys,
        **{(name, Quality.BQ): function for name, function in functions.items() if name not in named},
    }


def places_of(deployment: Deployment) -> dict[tuple[str, str], Place]:
    """Where each step's events come from; several steps may be members of one group."""
    places: dict[tuple[str, str], Place] = {}
    members: Counter[tuple[str, str]] = Counter()
    for step in deployment.steps:
        key = step.topic, step.group
        places[step.path] = Place(deployment.broker, *key, members[key])
        members[key] += 1
    return places


@dataclass
class Prepared:
    """What stands ready: teams that are new, those that have another version ready, sources that have joined.

    ``way``: another one than before, if one is needed.
    """

    teams: dict[TeamKey, Team] = field(default_factory=dict)
    versions: dict[TeamKey, Team] = field(default_factory=dict)
    sources: dict[Place, Source] = field(default_factory=dict)
    way: Way | None = None

    async def undo(self) -> None:
        """Let go of all of it."""
        for team in self.versions.values():
            team.abandon()
        leaving: list[Coroutine[Any, Any, object]] = [team.close() for team in self.teams.values()]
        leaving += [source.close(0) for source in self.sources.values()]
        if self.way is not None:
            leaving.append(self.way.close())
        await asyncio.gather(*leaving, return_exceptions=True)


class Preparation:
    """One preparation, beside these teams and sources, by this way to the broker.

    ``faults`` are known already, by the function that cannot be had.
    """

    def __init__(
        self,
        deployment: Deployment,
        teams: dict[TeamKey, Team],
        sources: dict[Place, Source],
        way: Way | None,
        make_team: MakeTeam,
        make_source: MakeSource,
        faults: Mapping[str, str],
    ) -> None:
        self._wanted_teams = {
            key: function for key, function in teams_of(deployment).items() if key[0] not in faults
        }
        self._deployment = deployment
        self._teams = teams
        self._sources = sources
        self._way = way
        self._make_team = make_team
        self._make_source = make_source
        self._prepared = Prepared()
        self._faults = list(faults.values())

    async def make(self, *, join: bool = True) -> Prepared:
        """Do it; raises :class:`ConfigError` with every fault. Without ``join`` nothing needs the broker."""
        deployment = self._deployment
        try:
            topics = [self._topics()] if join and deployment.steps else []
            await self._all(
                [*(self._team(key, function) for key, function in self._wanted_teams.items()), *topics]
            )
            if not join:
                return self._prepared
            places = places_of(deployment)
            await self._all([self._join(places[step.path], step) for step in deployment.steps])
        except BaseException:
            await self._prepared.undo()
            raise
        return self._prepared

    async def _all(self, work: Iterable[Coroutine[Any, Any, None]]) -> None:
        await asyncio.gather(*work)
        if self._faults:
            raise ConfigError(sorted(self._faults))

    async def _team(self, key: TeamKey, function: Function) -> None:
        team = self._teams.get(key)
        if team is not None and team.function.version == function.version and not team.fault:
            return
        if team is None:
            team = self._prepared.teams[key] = self._make_team(function, key[1])
        self._prepared.versions[key] = team
        try:
            await team.prepare(function)
        except TemposError as error:
            self._fault(f"function {function.name!r}", one_line(error))

    async def _topics(self) -> None:
        at, way = self._deployment.broker, self._way
        try:
            if way is None:
                way = self._prepared.way = await Way(at).open()
        except TemposError as error:
            self._fault(f"broker {at}", one_line(error))
            return
        await asyncio.gather(*(self._topic(way, name, *told) for name, told in self._wanted().items()))

    async def _topic(self, way: Way, name: str, who: str, asks: bool) -> None:
        try:
            topic = await way.learn(name)
        except TemposError as error:
            self._fault(who, f"topic {name!r}: {one_line(error)}")
            return
        if topic.framing is Framing.RAW and asks:
            self._fault(
                who,
                f"topic {name!r} is raw, which carries no requests; "
                "allowed: reply = true, or a topic with the framing event",
            )

    def _wanted(self) -> dict[str, tuple[str, bool]]:
        """Topics that are published to: which step first, and whether requests go there."""
        wanted: dict[str, tuple[str, bool]] = {}
        for step in self._deployment.steps:
            for key, topic in (("result", step.result), ("error", step.error)):
                if topic:
                    who, asks = wanted.get(topic, (f"step {step.workflow}/{step.name}: {key}", False))
                    wanted[topic] = (who, asks or (key == "result" and not step.reply))
        return wanted

    async def _join(self, place: Place, step: Step) -> None:
        known = self._sources.get(place)
        if known is not None and known.is_open:
            return
        source = known or self._make_source(place)
        if known is None:
            self._prepared.sources[place] = source
        if source.subscriber is None and known is None:
            try:
                await source.open()
            except TemposError as error:
                self._fault(f"step {step.workflow}/{step.name}: topic {step.topic!r}", one_line(error))
        elif not source.is_open:
            self._fault(
                f"step {step.workflow}/{step.name}: topic {step.topic!r}", str(source.told()["reason"])
            )

    def _fault(self, where: str, text: str) -> None:
        if (fault := f"{where}: {text}") not in self._faults:
            self._faults.append(fault)
