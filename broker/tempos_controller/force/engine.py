"""Brings what is wanted into force, whole or not at all, and keeps it there.

Rules: one change at a time. A change is written down before the first part hears of it and is answered when
all have it, or when all are back where they were. A Controller that dies in between takes it back when it
returns, for nobody was told that it is done. What cannot be taken back, because a part is away, is told, and
tried again until it is. Only a node that a change takes out, and that gives no answer, is let go of as it is,
and told: its machine may be gone for good. Whatever a part does that is not wanted is put right, whoever's
doing it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from tempos import ConfigError, TemposError, Unavailable
from tempos._awaitables import in_time
from tempos._remarks import Sparingly
from tempos.errors import one_line
from tempos_controller.config.load import Loaded, read
from tempos_controller.config.model import Platform
from tempos_controller.force.items import Change, Places, with_change, with_file
from tempos_controller.force.parts import Fleet, Seen, now_of
from tempos_controller.force.store import Desired, Store
from tempos_controller.parts.http import Away, Refused
from tempos_controller.plan.actions import (
    Action,
    ChangeTopic,
    MakeTopic,
    PutCalls,
    PutSignals,
    RemoveTopic,
)
from tempos_controller.plan.planner import plan
from tempos_controller.plan.wanted import Parts, compile_platform
from tempos_controller.watch.changes import Changes

log = logging.getLogger("tempos.controller")

#: Seconds that a part has to be there before a change begins, and to be back if it goes away in the middle.
THERE, BACK = 10.0, 15.0
#: Seconds that steps which leave have for what is on its way through them.
DRAINED = 30.0
#: Seconds between two looks whether all is as wanted.
LOOK_EVERY = 2.0


class NotDone(TemposError):
    """A change is not in force. ``problems``: why; ``left``: what could not be taken back, if anything."""

    def __init__(self, problems: Sequence[str], left: Sequence[str] = ()) -> None:
        said = "nothing has changed" if not left else "not all of it could be taken back yet"
        super().__init__(f"{said}: {'; '.join((*problems, *left))}")
        self.problems = [*problems, *left]
        self.left = list(left)


@dataclass(frozen=True, slots=True)
class Done:
    """A change that is in force: what was done, a line each."""

    changes: list[str]


class Engine:
    """What is wanted, and the parts that are to have it in force."""

    def __init__(self, store: Store, places: Places, platform: Platform, desired: Desired) -> None:
        """``desired`` is what is in force or was to be; ``platform`` the same, read."""
        self.store = store
        self.changes = Changes()
        self._log = self.changes.of("change", log)
        self._pids: dict[str, int | None] = {}
        self.fleet = Fleet(store, self._on_child)
        self.desired = desired
        self.platform = platform
        self._places = places
        self._wanted = compile_platform(platform)
        self._lock = asyncio.Lock()
        self._look = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._told = Sparingly(self.changes.of("amiss", log), time.monotonic)
        #: What is not as wanted, and why; empty if all is in force.
        self.amiss: dict[str, str] = {"all": "not begun yet"}
        self.changing = ""
        #: Why the last change is not in force; "" if it is.
        self.not_done = ""

    # --- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Have what is to be started here running; nothing is asked of anybody yet."""
        self.fleet.set_broker(self.platform.broker)
        self.fleet.add_nodes(self.platform.nodes)

    def keep(self) -> None:
        """From now on keep in force what is wanted."""
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="keep in force")

    async def close(self) -> None:
        """Do no more; a change that is under way comes to its end, or is taken back next time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _on_child(self) -> None:
        for name, child in self.fleet.children.items():
            if (pid := child.pid) != self._pids.get(name):
                self._pids[name] = pid
                ended = f"{child.reason}; it is started again"
                said = f"runs, process {pid}" if pid is not None else ended
                level = logging.INFO if pid is not None else logging.WARNING
                self.changes.note("daemon", level, f"{name} {said}")
        self._look.set()

    # --- what others ask --------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether all that is wanted is in force."""
        return not self.amiss and not self.changing

    async def plan(self, change: Change, *, whole: bool = False) -> list[str]:
        """What a change would do, a line each. Raises :class:`ConfigError`, :class:`NotDone`.

        ``whole``: the change is all that the file says; what came with that before and is not in it now goes.
        """
        async with self._lock:
            desired = with_change(self.desired, change)
            if whole:
                listed = {kind: [each for each in named.values() if each] for kind, named in change.items()}
                desired = with_file(self.desired, listed, "")
            platform = self._read(desired)
            wanted = compile_platform(platform)
            seen = await self.fleet.look(self._wanted, wanted)
            now, reached, problems = now_of(seen, self.desired.made, wanted)
            if problems:
                raise NotDone(problems)
            actions = plan(now, _with_new(reached, wanted, seen))
            let_go = _let_go(self.fleet.leaving(platform.nodes), seen)
            return [*(line for action in actions for line in action.words()), *let_go]

    async def apply(self, change: Change, why: str) -> Done:
        """Bring a change into force. Raises :class:`ConfigError` for its faults, and :class:`NotDone`."""
        # Whoever asked may be gone before it is done; what was begun is finished.
        return await asyncio.shield(self._apply(lambda: with_change(self.desired, change), self._places, why))

    async def apply_file(self, loaded: Loaded, places: Places, digest: str) -> Done:
        """Bring a version of the file into force; raises as :meth:`apply` does."""
        for code in loaded.code.values():
            self.store.add_code(code)
        return await asyncio.shield(
            self._apply(lambda: with_file(self.desired, loaded.documents, digest), places, "the file")
        )

    def _read(self, desired: Desired, places: Places | None = None) -> Platform:
        places = places or self._places
        platform = read(places.documents(desired), "platform", places.own)
        codes = {each.name: each.code["sha256"] for each in platform.functions if each.code}
        missing = [
            f"platform: function {name}: its code {digest[:12]}... is not here; allowed: uploaded code"
            for name, digest in codes.items()
            if not self.store.has_code(digest)
        ]
        if missing:
            raise ConfigError(missing)
        return platform

    # --- a change ---------------------------------------------------------------------------

    async def _apply(self, make: Any, places: Places, why: str) -> Done:
        async with self._lock:
            before, platform_before = self.desired, self.platform
            desired: Desired = make()
            platform = self._read(desired, places)
            if (platform.controller, platform.broker) != (platform_before.controller, platform_before.broker):
                raise NotDone(
                    ["[controller] or [broker] differ from what was started: restart the Controller"]
                )
            if moved := self.fleet.differing(platform.nodes):
                raise NotDone(
                    [
                        f"node {each.name} would be elsewhere, its invoker at {_place(each.invoker)} and its "
                        f"trigger at {_place(each.trigger)}: give it another name, or restart the Controller "
                        "with a file that has it there"
                        for each in moved
                    ]
                )
            wanted = compile_platform(platform)
            self.changing = why
            try:
                self.fleet.add_nodes(platform.nodes)
                done = await self._change(before, desired, wanted, self.fleet.leaving(platform.nodes))
            except NotDone as error:
                self.not_done = f"{why}: {'; '.join(error.problems)}"
                await self.fleet.keep_nodes(platform_before.nodes)
                raise
            finally:
                self.changing = ""
            self.desired, self.platform, self._wanted = done[0], platform, wanted
            self._places = places
            self.amiss = {}
            await self.fleet.keep_nodes(platform.nodes)
            self._forget_code()
            self.not_done = ""
            self._log.info("%s is in force: %s", why, "; ".join(done[1]) or "nothing differed")
            return Done(done[1])

    async def _change(
        self, before: Desired, desired: Desired, wanted: Parts, leaving: AbstractSet[str]
    ) -> tuple[Desired, list[str]]:
        if away := _but(leaving, await self.fleet.answering(THERE)):
            raise self._not_there(away)
        seen = await self.fleet.look(self._wanted, wanted)
        now, reached, problems = now_of(seen, before.made, wanted)
        if problems:
            raise NotDone(problems)
        if away := _but(leaving, seen.away):
            raise self._not_there(away)
        actions = plan(now, reached)
        if not actions and not _differ(before, desired):
            return before, []
        # Topics are the Controller's from the moment that it may have made them.
        made = {**before.made, **{each.name: each.options for each in actions if isinstance(each, MakeTopic)}}
        self._write(replace(before, made=made, changing=json.dumps({"items": desired.items})))
        try:
            await self._run(actions)
        except (Refused, Away) as error:
            problems = error.problems if isinstance(error, Refused) else [str(error)]
            told = [f"{error.what}: {each}" for each in problems]
            self._log.warning("not done, taken back: %s", "; ".join(told))
            left = await self._take_back(before, made)
            raise NotDone(told, left) from error
        gone = made.keys() - wanted.topics.keys()
        stated = {name: wanted.topics[name] for name in made if name not in gone}
        after = replace(desired, made=stated, changing="")
        try:
            self._write(after)
        except NotDone as error:
            left = await self._take_back(before, made)
            raise NotDone(error.problems, left) from error
        return after, [*(line for action in actions for line in action.words()), *_let_go(leaving, seen)]

    def _write(self, desired: Desired) -> None:
        try:
            self.store.write(desired)
        except Unavailable as error:
            raise NotDone([one_line(error)]) from error

    async def _run(self, actions: Sequence[Action]) -> None:
        for action in actions:
            log.debug("%s", "; ".join(action.words()))
            try:
                await self._do(action)
            except Away as error:
                # It may be on its way back, having done it or not; to do it again does no harm.
                log.warning("%s; waiting for it", error)
                away = await self.fleet.answering(BACK)
                if error.what in away:
                    raise Away(error.what, away[error.what]) from error
                await self._do(action)

    async def _do(self, action: Action) -> None:
        broker = self.fleet.broker
        assert broker is not None, "set at the start"
        match action:
            case MakeTopic(name, options):
                try:
                    await broker.make(name, options)
                except Refused as error:
                    # Made before its broker went away, perhaps.
                    there = (await broker.topics()).get(name) if error.status == 409 else None
                    if there is None or any(there.get(key) != value for key, value in options.items()):
                        raise
            case ChangeTopic(name, changes):
                await broker.change(name, changes)
            case RemoveTopic(name):
                await broker.remove(name)
            case PutCalls():
                await self._put_calls(action)
            case PutSignals(node, _, after_):
                await self.fleet.triggers[node].put(after_.document())

    async def _put_calls(self, action: PutCalls) -> None:
        part = self.fleet.invokers[action.node]
        before, after = action.before, action.after
        known = {each["code"]["sha256"] for each in before.functions.values() if each.get("code")}

        async def upload(digests: Iterable[str]) -> None:
            for digest in digests:
                await part.upload(digest, self._code(part.remote.what, digest))

        await upload(action.upload.keys() - known)
        self.fleet.remember(after)
        try:
            await part.put(after.document())
        except Refused:
            if not (again := action.upload.keys() & known):
                raise
            # Its folder may have lost what it once had.
            await upload(again)
            await part.put(after.document())
        if any(
            key not in after.steps or after.steps[key].get("result") != step.get("result")
            for key, step in before.steps.items()
        ):
            # What is on its way now may be for a step that is let go of next.
            await part.emptied(DRAINED)

    def _code(self, what: str, digest: str) -> bytes:
        code = self.store.code(digest)
        if code is None:
            raise Away(
                what, f"the code {digest[:12]}... is gone from the Controller's folder: upload it again"
            )
        return code

    def _not_there(self, away: Mapping[str, str]) -> NotDone:
        """Parts that give no answer, which is amiss until the next look says otherwise."""
        found = {what: f"does not answer: {why}" for what, why in away.items()}
        self.amiss = {**self.amiss, **found}
        return NotDone([f"{what} {told}" for what, told in found.items()])

    async def _take_back(self, before: Desired, made: Mapping[str, Any]) -> list[str]:
        """Have all parts where they were; what could not be, a line each."""
        self.amiss = await self._put_right(made)
        left = [f"{what}: {why}" for what, why in self.amiss.items()]
        kept = {name: options for name, options in made.items() if name in self._wanted.topics}
        # What is left may need its topics still to be known as ours.
        self.desired = replace(before, made=dict(made) if left else kept)
        with contextlib.suppress(NotDone):
            self._write(self.desired)
        return left

    async def _put_right(self, made: Mapping[str, Any]) -> dict[str, str]:
        """Have everybody who answers do what is wanted; what is not as wanted then, and why."""
        seen = await self.fleet.look(self._wanted)
        now, reached, problems = now_of(seen, made, self._wanted)
        amiss = {what: f"does not answer: {why}" for what, why in seen.away.items()}
        amiss |= {f"topics {index}": problem for index, problem in enumerate(problems)}
        for action in plan(now, reached):
            what = _part_of(action)
            if what in amiss:
                continue
            for line in action.words():
                self._log.info("put right: %s", line)
            try:
                await self._do(action)
            except Refused as error:
                amiss[what] = f"refuses {'; '.join(action.words())}: {error.detail}"
            except Away as error:
                amiss[what] = f"does not answer: {error.why}"
        return amiss

    # --- keeping ----------------------------------------------------------------------------

    async def settle(self, patience: float) -> dict[str, str]:
        """Have what was wanted before in force again, an unfinished change taken back; what is amiss."""
        async with self._lock:
            await self.fleet.answering(patience)
            await self._settle()
            return self.amiss

    async def _settle(self) -> None:
        self.amiss = await self._put_right(self.desired.made)
        made = {name: self._wanted.topics[name] for name in self.desired.made if name in self._wanted.topics}
        if not self.amiss and (self.desired.changing or made != self.desired.made):
            self.desired = replace(self.desired, made=made, changing="")
            self.store.write(self.desired)

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await in_time(self._look.wait(), LOOK_EVERY)
            self._look.clear()
            for child in self.fleet.children.values():
                child.trim_log()
            if self._lock.locked():
                continue
            async with self._lock:
                before = dict(self.amiss)
                try:
                    await self._settle()
                except TemposError as error:
                    self.amiss = {"controller": one_line(error)}
                for what, why in self.amiss.items():
                    self._told.warn(what, f"not as wanted: {what} {why}")
                if before and not self.amiss:
                    self._log.info("all is in force again")

    def _forget_code(self) -> None:
        self.store.forget_code(each.code["sha256"] for each in self.platform.functions if each.code)


def _place(at: tuple[str, int]) -> str:
    return f"{at[0]}:{at[1]}" if at[1] else "none"


def _part_of(action: Action) -> str:
    match action:
        case PutCalls(node):
            return f"invoker {node}"
        case PutSignals(node):
            return f"trigger {node}"
    return "broker"


def _but(leaving: AbstractSet[str], away: Mapping[str, str]) -> dict[str, str]:
    return {what: why for what, why in away.items() if what not in leaving}


def _let_go(leaving: AbstractSet[str], seen: Seen) -> list[str]:
    return [
        f"- {what}: does not answer, and is left as it is: end it there, should it still run"
        for what in sorted(leaving & seen.away.keys())
    ]


def _with_new(reached: Parts, wanted: Parts, seen: Seen) -> Parts:
    """With the nodes that are not there yet: they will begin with nothing."""
    new_invokers = {
        name: each for name, each in wanted.invokers.items() if f"invoker {name}" not in seen.away
    }
    new_triggers = {
        name: each for name, each in wanted.triggers.items() if f"trigger {name}" not in seen.away
    }
    return replace(
        reached, invokers={**new_invokers, **reached.invokers}, triggers={**new_triggers, **reached.triggers}
    )


def _differ(before: Desired, desired: Desired) -> bool:
    return (before.items, before.origins, before.file) != (desired.items, desired.origins, desired.file)
