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

from tempos import ConfigError, Framing, Publisher, Quality, TemposError
from tempos.errors import one_line
from tempos_invoker.core.step import Step
from tempos_invoker.deploy.model import BrokerAt, Deployment, Function
from tempos_invoker.sources import Place, Source
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

    ``publisher``: another one than before, if one is needed.
    """

    teams: dict[TeamKey, Team] = field(default_factory=dict)
    versions: dict[TeamKey, Team] = field(default_factory=dict)
    sources: dict[Place, Source] = field(default_factory=dict)
    publisher: Publisher | None = None

    async def undo(self) -> None:
        """Let go of all of it."""
        for team in self.versions.values():
            team.abandon()
        leaving: list[Coroutine[Any, Any, object]] = [team.close() for team in self.teams.values()]
        leaving += [source.close(0) for source in self.sources.values()]
        if self.publisher is not None:
            leaving.append(self.publisher.close())
        await asyncio.gather(*leaving, return_exceptions=True)


class Preparation:
    """One preparation, beside these teams, sources and publisher.

    ``faults`` are known already, by the function that cannot be had.
    """

    def __init__(
        self,
        deployment: Deployment,
        teams: dict[TeamKey, Team],
        sources: dict[Place, Source],
        publisher: Publisher | None,
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
        self._publisher = publisher
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
        at = self._deployment.broker
        try:
            publisher = self._publisher or await self._open(at)
            wanted = self._wanted()
            found = await asyncio.gather(
                *(publisher.resolve(topic) for topic in wanted), return_exceptions=True
            )
            if any(
                not isinstance(each, BaseException) and publisher.known(topic) not in (None, each[0])
                for topic, each in zip(wanted, found, strict=True)
            ):
                # A topic was removed and made anew: the publisher that knows the old one is of no use.
                publisher = await self._open(at)
            for topic, each in zip(wanted, found, strict=True):
                if isinstance(each, TemposError):
                    self._fault(wanted[topic][0], f"topic {topic!r}: {one_line(each)}")
                elif isinstance(each, BaseException):
                    raise each
                elif each[0].framing is Framing.RAW and wanted[topic][1]:
                    self._fault(
                        wanted[topic][0],
                        f"topic {topic!r} is raw, which carries no requests; "
                        "allowed: reply = true, or a topic with the framing event",
                    )
                else:
                    await publisher.learn(topic)
        except TemposError as error:
            self._fault(f"broker {at}", one_line(error))

    def _wanted(self) -> dict[str, tuple[str, bool]]:
        """Topics that are published to: which step first, and whether requests go there."""
        wanted: dict[str, tuple[str, bool]] = {}
        for step in self._deployment.steps:
            for key, topic in (("result", step.result), ("error", step.error)):
                if topic:
                    who, asks = wanted.get(topic, (f"step {step.workflow}/{step.name}: {key}", False))
                    wanted[topic] = (who, asks or (key == "result" and not step.reply))
        return wanted

    async def _open(self, at: BrokerAt) -> Publisher:
        publisher = await open_publisher(at)
        if self._prepared.publisher is not None:
            await self._prepared.publisher.close()
        self._prepared.publisher = publisher
        return publisher

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


async def open_publisher(at: BrokerAt) -> Publisher:
    """A publisher to this broker; raises :class:`TemposError`."""
    publisher = Publisher(at.address, data_port=at.data_port, control_port=at.control_port, auth=at.auth)
    return await publisher.__aenter__()
