"""An invoker: the deployment in force, the teams that serve its functions, and where their events come from.

A new deployment comes into force as a whole, or nothing changes. What is the same in both is not touched;
a new version's workers take over invocation by invocation; what is not wanted any more comes to its end
beside that, and loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import time
from collections import Counter
from collections.abc import Coroutine, Mapping
from typing import Any

from tempos import ConfigError, LocalError, Quality, TemposError, Unavailable, names
from tempos._awaitables import in_time
from tempos._remarks import Remark
from tempos.errors import one_line
from tempos_daemon.realtime import RealTime
from tempos_invoker.core.account import Account
from tempos_invoker.core.invocation import Outcome
from tempos_invoker.core.step import Step
from tempos_invoker.deploy import layout
from tempos_invoker.deploy.model import Code, Deployment, Function, Settings
from tempos_invoker.deploy.prepare import (
    Preparation,
    Prepared,
    TeamKey,
    places_of,
    teams_of,
)
from tempos_invoker.deploy.store import Store
from tempos_invoker.failures import Failure, Failures
from tempos_invoker.results import CHAIN_WITHIN, Results, by_hand
from tempos_invoker.sources import Place, Source, Target
from tempos_invoker.turns import Turns
from tempos_invoker.way import Way
from tempos_invoker.workers import process
from tempos_invoker.workers.log import FunctionLog
from tempos_invoker.workers.strays import Strays
from tempos_invoker.workers.team import Team

#: Events that may wait which came by hand.
BY_HAND = 64
#: Seconds until the broker is tried again.
AGAIN = 1.0
#: At the end, seconds: for what is on its way here; for what waits, and what runs; for what is to be sent.
ARRIVING, FINISHING, SENDING = 0.8, 2.0, 0.5

log = logging.getLogger("tempos.invoker")


class Invoker:
    """Does what its deployment says; ``store`` remembers it."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.deployment: Deployment | None = None
        self.teams: dict[TeamKey, Team] = {}
        #: Teams that are not wanted any more and finish what they have.
        self.leaving: list[Team] = []
        #: Sources that are not wanted any more, until they have left.
        self.parting: list[Source] = []
        #: Changes after which something is still on its way to where a step's results went before.
        self.turning = 0
        self.sources: dict[Place, Source] = {}
        self.targets: dict[tuple[str, str], Target] = {}
        self.accounts: dict[tuple[str, str], Account] = {}
        #: The account of teams that are gone.
        self.removed = Account()
        self.logs: dict[str, FunctionLog] = {}
        self.failures = Failures()
        self.results = Results(self._sending, self.failures)
        self.api_refused: Counter[str] = Counter()
        self.started = time.time()
        self.way: Way | None = None
        self.real_time = RealTime(settings.priority)
        self.strays = Strays(process.OURS)
        self._turns = Turns()
        self._by_hand: dict[Team, Target] = {}
        self._publisher_id = int.from_bytes(os.urandom(4), "big")
        self._called = 0
        self._cores = 0
        self._changing = asyncio.Lock()
        self._beside: set[asyncio.Task[None]] = set()
        self._no_way = Remark(log, "there is a way to the broker")

    # --- deployments -------------------------------------------------------------------------

    async def resume(self) -> None:
        """Do what was in force when it ended; what is not there yet is tried again and again."""
        try:
            document = self.store.load()
            if document is None:
                return
            deployment = layout.read(document)
        except TemposError as error:
            log.error(  # noqa: TRY400 - the text says what is wrong
                "what was in force cannot be again, another deployment is waited for: %s", one_line(error)
            )
            return
        faults: dict[str, str] = {}
        deployment = self._with_code(deployment, faults)
        for fault in faults.values():
            log.error("%s", fault)
        await self._change(deployment, Prepared())

    async def begin(self, deployment: Deployment) -> None:
        """Do what a file says: raises :class:`ConfigError` for what is wrong with functions.

        The broker may come later.
        """
        faults: dict[str, str] = {}
        deployment = self._with_code(deployment, faults)
        preparation = Preparation(
            deployment, self.teams, {}, None, self._make_team, self._make_source, faults
        )
        prepared = await preparation.make(join=False)
        await self._change(deployment, prepared)

    async def apply(self, deployment: Deployment, document: Any = None) -> None:
        """Do this from now on, all of it; raises :class:`ConfigError`, and then nothing has changed.

        ``document``: what to remember of it; None: nothing.
        """
        async with self._changing:
            faults: dict[str, str] = {}
            deployment = self._with_code(deployment, faults)
            same = self.deployment is not None and self.deployment.broker == deployment.broker
            way = self.way if same else None
            preparation = Preparation(
                deployment,
                self.teams,
                self.sources,
                way,
                self._make_team,
                self._make_source,
                faults,
            )
            prepared = await preparation.make()
            if document is not None:
                try:
                    self.store.save(document)
                except OSError as error:
                    await prepared.undo()
                    raise ConfigError([f"{self.store.folder} cannot be written: {error.strerror}"]) from error
            await self._change(deployment, prepared)

    def _with_code(self, deployment: Deployment, faults: dict[str, str]) -> Deployment:
        """The deployment with where its code lies; what cannot be found is put into ``faults``."""
        functions = []
        for function in deployment.functions:
            if function.code is not None:
                try:
                    function = dataclasses.replace(function, code=self._found(function.code))
                except (OSError, LocalError) as error:
                    faults[function.name] = f"function {function.name!r}: code: {one_line(error)}"
            functions.append(function)
        return dataclasses.replace(deployment, functions=tuple(functions))

    def _found(self, code: Code) -> Code:
        if code.path:
            return self.store.adopt(code)
        path = self.store.find(code)
        if path is None:
            raise LocalError(f"{code.sha256} is not here; put it to /v1/code/{code.sha256} before")
        return dataclasses.replace(code, path=str(path))

    def _make_team(self, function: Function, quality: Quality) -> Team:
        fresh = FunctionLog(function.name, time.time, time.monotonic)
        function_log = self.logs.setdefault(function.name, fresh)
        first = self._cores
        if quality is Quality.SQ:
            self._cores += function.concurrency

        def scheduling(index: int) -> Mapping[str, Any]:
            if quality is not Quality.SQ or not self.settings.priority_sq:
                return {}
            cpus = sorted(os.sched_getaffinity(0))
            return {
                "fifo": self.settings.priority_sq,
                "cpus": [cpus[(first + index) % len(cpus)]],
                "budget": self.settings.budget_sq,
            }

        team = Team(
            function,
            quality,
            function_log,
            lambda outcome: self.results.on_outcome(team, outcome),
            scheduling=scheduling,
            cache=str(self.store.cache),
        )
        return team

    async def _change(self, deployment: Deployment, prepared: Prepared) -> None:
        """Step over; nothing in here can fail."""
        before, self.deployment = self.deployment, deployment
        self._take_way(deployment, prepared, before)
        wanted = teams_of(deployment)
        gone = {key: team for key, team in self.teams.items() if key not in wanted}
        for key, function in wanted.items():
            self._take_team(key, function, prepared)
        for key in gone:
            del self.teams[key]
        idle = self._take_steps(deployment, prepared)
        self.leaving += gone.values()
        self._later(self._wind_up(idle, list(gone.values())))
        self.store.sweep({function.code.sha256 for function in deployment.functions if function.code})
        for name in self.logs.keys() - {function.name for function in deployment.functions}:
            del self.logs[name]

    def _take_way(self, deployment: Deployment, prepared: Prepared, before: Deployment | None) -> None:
        old = self.way
        if prepared.way is not None:
            self.way = prepared.way
        elif before is not None and before.broker != deployment.broker:
            self.way = None
        if self.way is not old and old is not None:
            self._later(self._close_way(old))
        if self.way is None and deployment.steps:
            self._later(self._open_way(deployment))

    async def _close_way(self, way: Way) -> None:
        await self.results.settled()
        await way.close()

    async def _open_way(self, deployment: Deployment) -> None:
        while self.way is None and self.deployment is deployment:
            try:
                way = await Way(deployment.broker).open()
            except TemposError as error:
                self._no_way(f"there is no way to the broker: {one_line(error)}")
                await asyncio.sleep(AGAIN)
            else:
                self.way = way
                self._no_way.gone()

    def _take_team(self, key: TeamKey, function: Function, prepared: Prepared) -> None:
        team = self.teams.get(key) or prepared.teams.get(key)
        if team is None:
            team = self._make_team(function, key[1])
            team.begin(function)
        elif key in prepared.versions:
            team.adopt()
        elif team.function.version == function.version:
            team.resize(function)
        else:
            team.begin(function)
        self.teams[key] = team

    def _make_source(self, place: Place) -> Source:
        return Source(place, self.store.ports, self._turns)

    def _take_steps(self, deployment: Deployment, prepared: Prepared) -> list[tuple[Source | None, Target]]:
        """Steps feed their places; gives the sources and the places that are not wanted any more."""
        before, sources = self.targets, self.sources
        self.targets, self.sources = {}, {}
        former: set[str] = set()
        self._turns.these(self.teams.values())
        places = places_of(deployment)
        for step in deployment.steps:
            team = self.teams[step.function, step.quality]
            target = before.get(step.path)
            if target is None or target.team is not team:
                account = self.accounts.setdefault(step.path, Account())
                target = Target(team, team.open(step, account))
            former |= {target.queue.step.result} - {step.result, ""}
            target.queue.step = step
            self.targets[step.path] = target
            place = places[step.path]
            source = sources.pop(place, None) or prepared.sources.get(place) or self._make_source(place)
            source.feed(target)
            self.sources[place] = source
        if former:
            self.turning += 1
            self._later(self._turn_away(former))
        idle: list[tuple[Source | None, Target]] = []
        kept = {id(target) for target in self.targets.values()}
        fed = set()
        for source in sources.values():
            if source.target is not None:
                idle.append((source, source.target))
                fed.add(id(source.target))
        idle += [
            (None, target) for target in before.values() if id(target) not in kept and id(target) not in fed
        ]
        return idle

    async def _wind_up(self, idle: list[tuple[Source | None, Target]], teams: list[Team]) -> None:
        """Let what is not wanted any more come to its end."""
        await self._part({source: target for source, target in idle if source is not None})
        kept = {id(target) for target in self.targets.values()}
        for _, target in idle:
            if id(target) not in kept:
                target.team.pool.close(target.queue)
        for path in self.accounts.keys() - self.targets.keys():
            self._later(self._forget(path, [target for _, target in idle if target.queue.step.path == path]))
        for team in teams:
            await team.emptied()
            await team.close(1.0)
            self._by_hand.pop(team, None)
            self.leaving.remove(team)
            self.removed.add(team.pool.account)

    async def _part(self, idle: dict[Source, Target]) -> None:
        """Leave groups: of a chain the first step first, and each one when what goes to it has arrived."""
        self.parting += idle
        left = dict(idle)
        while left:
            fed = {
                each for each in left for other, target in left.items()
                if other is not each and (out := target.queue.step.result)
                and names.matches(each.place.topic, out)
            }  # fmt: skip
            first = [each for each in left if each not in fed]
            # In a circle all go together.
            level = {source: left.pop(source) for source in first or list(left)}
            await asyncio.gather(*map(self._leave, level))
            if left:
                kept = {id(target) for target in self.targets.values()}
                queues = [target for target in level.values() if id(target) not in kept]
                with contextlib.suppress(asyncio.TimeoutError):
                    await in_time(
                        asyncio.gather(*(each.team.emptied(each.queue) for each in queues)), CHAIN_WITHIN
                    )

    async def _leave(self, source: Source) -> None:
        try:
            await self.results.arrived(names.matcher(source.place.topic), CHAIN_WITHIN)
            await source.close()
        finally:
            self.parting.remove(source)

    async def _turn_away(self, topics: set[str]) -> None:
        """Wait for what is on its way to topics where results do not go any more."""
        try:
            await self.results.arrived(topics.__contains__, CHAIN_WITHIN)
        finally:
            self.turning -= 1

    async def _forget(self, path: tuple[str, str], targets: list[Target]) -> None:
        """The account of a step that is gone, once nothing of it is left."""
        for target in targets:
            await target.team.emptied(target.queue)
        if path not in self.targets:
            self.accounts.pop(path, None)

    # --- what people do ----------------------------------------------------------------------

    async def invoke(self, name: str, body: bytes) -> Outcome:
        """Call a function with a body, by hand; raises :class:`KeyError` for one that is not there."""
        teams = [self.teams[key] for key in ((name, Quality.BQ), (name, Quality.SQ)) if key in self.teams]
        if not teams:
            raise KeyError(name)
        team = teams[0]
        target = self._by_hand.get(team)
        if target is None:
            step = Step("", "by hand", name, team.quality, "", "", queue=BY_HAND)
            target = self._by_hand[team] = Target(team, team.open(step, Account()))
        self._called += 1
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        event = by_hand("", body, self._publisher_id, self._called & 0xFFFFFFFF, future)
        team.accept(target.queue, event)
        team.pump()
        return await future

    def redrive(self, failure: Failure) -> bool:
        """Accept a failed event anew, by the step that it failed in; False if that is gone."""
        target = self.targets.get((failure.workflow, failure.step))
        if target is None or self.failures.take(failure.number) is None:
            return False
        # Nobody waits for the answer any more, and its age counts anew.
        event = failure.event._replace(received=time.monotonic(), origin=None)
        target.team.accept(target.queue, event)
        target.team.pump()
        return True

    @property
    def ready(self) -> bool:
        """Whether there is a deployment, and all of it in force: workers said hello, groups are joined.

        Where the broker has been silent for longer than a lease, nobody knows of groups.
        """
        return (
            self.deployment is not None
            and all(team.is_ready for team in self.teams.values())
            and all(source.is_open for source in self.sources.values())
        )

    @property
    def broker_fault(self) -> str:
        """Why the broker is not there, as far as is known; "" if nothing is wrong."""
        if self.deployment is None or not self.deployment.steps:
            return ""
        if self.way is not None and self.way.is_gone:
            return f"nobody listens at {self.way.at}"
        return next((source.silence for source in self.sources.values() if source.silence), "")

    # --- the end -----------------------------------------------------------------------------

    async def stop(self) -> None:
        """Take no more events, finish what has come as far as there is time for it, and end."""
        await asyncio.gather(
            *(source.close(ARRIVING, hurry=True) for source in [*self.sources.values(), *self.parting]),
            return_exceptions=True,
        )
        teams = [*self.teams.values(), *self.leaving]
        finishing = [asyncio.ensure_future(team.emptied()) for team in teams]
        if finishing:
            await asyncio.wait(finishing, timeout=FINISHING)
        for team in teams:
            team.stop("the invoker was told to stop")
        if any(not each.done() for each in finishing):
            for team in teams:
                team.stop_running("the invoker was told to stop")
        for each in finishing:
            each.cancel()
        await self.results.finish(SENDING)
        for task in list(self._beside):
            task.cancel()
        await asyncio.gather(*finishing, *self._beside, return_exceptions=True)
        await asyncio.gather(*(team.close(0.2) for team in teams))
        await self.strays.end()
        if self.way is not None:
            await self.way.close()

    def _sending(self) -> Way:
        if self.way is None:
            raise Unavailable("there is no way to the broker yet")
        return self.way

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._beside.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("what was to be done beside could not be", exc_info=error)
