"""Composition root: the Controller of a platform's file, with its daemons, until a signal says to stop.

    SIGINT, SIGTERM   end the daemons that were started here as well, triggers first, the broker last
    SIGUSR2           end the Controller alone; the next one finds what runs
    SIGHUP            read the file again

A Controller that cannot start leaves alone what an earlier one started.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tempos_daemon.entry import leave, wait_for_configuration

if __name__ == "__main__":
    # What follows takes a while to be read.
    wait_for_configuration()

from tempos import ConfigError, TemposError, Unavailable
from tempos._places import state_of
from tempos.errors import one_line
from tempos_controller.api import application
from tempos_controller.config.load import KINDS, Loaded, load, read
from tempos_controller.config.model import ControllerPlace, Platform, Trigger, Workflow
from tempos_controller.documents import Documents
from tempos_controller.force.engine import Engine
from tempos_controller.force.items import Places, with_nodes_of
from tempos_controller.force.local import PATIENCE
from tempos_controller.force.store import Desired, Store
from tempos_controller.parts.http import Away, Refused
from tempos_controller.plan.wanted import revision
from tempos_controller.watch.feed import Feed
from tempos_daemon import logs, loop
from tempos_daemon.http_server import HttpServer
from tempos_daemon.last_resort import LastResort
from tempos_daemon.notify import STOPPING, notify, ready, say
from tempos_daemon.rereading import Rereading
from tempos_daemon.signals import STOP_WITHIN, Signals
from tempos_daemon.token import read_token, tell_all_open

log = logging.getLogger("tempos.controller")

EXIT_OK, EXIT_FAILED, EXIT_UNUSABLE = 0, 1, 2
#: Seconds that daemons have to answer when they were only just started.
START_PATIENCE = 20.0
#: The name of the Controller's own token.
TOKEN = "controller"  # noqa: S105 - where it is


def run(options: argparse.Namespace) -> int:
    """Run a platform until told to stop. ``options``: file, state (folder or None), log_level."""
    logs.configure(options.log_level, options.log_format)
    # httpx tells every request.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Three sorts of daemons end one after the other.
    signals = Signals(LastResort(EXIT_FAILED), within=3 * PATIENCE + STOP_WITHIN)
    signals.hold()
    try:
        file = Path(options.file).absolute()
        loaded = load(file)
        tell_all_open(file, log)
        return _run_loop(file, loaded, options.state, signals)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_UNUSABLE
    except (OSError, TemposError) as error:
        print(f"tempos up: {error}", file=sys.stderr)
        return EXIT_FAILED


def _run_loop(file: Path, loaded: Loaded, state: str | None, signals: Signals) -> int:
    loop.run(_serve(file, loaded, state, signals), signals)
    return EXIT_OK


@dataclass(frozen=True, slots=True)
class _Started:
    """A Controller that is there."""

    engine: Engine
    reload: Rereading
    where: str
    #: How the page's token is found.
    token: str
    #: Why the file is not in force, or "".
    refused: str


async def _serve(file: Path, loaded: Loaded, state: str | None, signals: Signals) -> None:
    signals.attach()
    async with contextlib.AsyncExitStack() as stack:
        started = await signals.unless_stopped(_start(stack, file, loaded, state, signals))
        if started is None:
            return
        lines = await ready_lines(started.engine, started.where, started.refused)
        lines.append(f"  live page {started.where}/ ({started.token})")
        say("\n".join(lines))
        notify(ready(lines[0].removeprefix("ready: ")))
        signals.reload_with(started.reload.on_signal)
        await signals.wait()
        notify(STOPPING)


async def _start(
    stack: contextlib.AsyncExitStack, file: Path, loaded: Loaded, state: str | None, signals: Signals
) -> _Started:
    """Start everything, to be stopped in reverse with ``stack``."""
    place = loaded.platform.controller
    store = Store(_folder(state or place.state, place.name))
    stack.callback(store.close)
    known = store.read()
    desired = known or Desired()
    places = places_of(loaded)
    platform = _nothing(loaded.platform)
    if known:
        known = desired = with_nodes_of(known, loaded.documents)
        platform = read(places.documents(known), "what was in force last", places.own)
    engine = Engine(store, places, platform, desired)
    refused: Counter[str] = Counter()
    token = _token(place, store)
    documents = Documents(engine, place.name)
    feed = Feed(engine, documents)
    app = application(engine, documents, token, refused, feed)
    server = HttpServer(app, place.host, place.port, refused)
    try:
        server.bind()
    except OSError as error:
        raise Unavailable(
            f"the API cannot have {place.host}:{place.port}: {error.strerror}; set controller.api"
        ) from error
    stack.push_async_callback(signals.step, "closing the API", server.close)
    stack.push_async_callback(signals.step, "letting viewers go", feed.close)
    engine.start()
    finished = _Finish(engine, signals, first=known is None)
    stack.push_async_callback(signals.step, "ending the daemons", finished)
    await server.start()
    if amiss := await engine.settle(START_PATIENCE):
        if known is None:
            raise Unavailable(_lines("not everything could be started", amiss))
        log.warning("%s", _lines("not in force yet", amiss))
    reload = Rereading(_Reload(engine, file))
    at_first, why = _Apply(engine, loaded), ""
    try:
        await at_first()
    except TemposError as error:
        if known is None:
            raise
        why = one_line(error)
        log.error("the file is not in force, what was before is: %s", why)  # noqa: TRY400
    engine.keep()
    feed.begin()
    stack.push_async_callback(signals.step, "coming to the end of a change", engine.close)
    stack.push_async_callback(signals.step, "reloading", reload.close)
    finished.first = False
    where = f"http://{place.host}:{place.port}"
    return _Started(engine, reload, where, _how_to_token(place, store), why)


def _folder(given: str, name: str) -> Path:
    return Path(given).absolute() if given else state_of("controller", name)


class _Finish:
    """What becomes of the daemons that were started here."""

    def __init__(self, engine: Engine, signals: Signals, *, first: bool) -> None:
        self._engine = engine
        self._signals = signals
        #: Nothing was in force before, and nothing is yet.
        self.first = first

    async def __call__(self) -> None:
        told = self._signals.stopped_by
        if told in (signal.SIGINT, signal.SIGTERM) or (told is None and self.first):
            await self._engine.fleet.stop()
        else:
            await self._engine.fleet.leave()


def _nothing(platform: Platform) -> Platform:
    """The places of a platform without anything in them: daemons are there before they get to work."""
    return replace(platform, functions=(), triggers=(), workflows=(), topics=())


def _lines(what: str, amiss: Mapping[str, str]) -> str:
    return "\n  ".join([f"{what}:", *(f"{part} {why}" for part, why in amiss.items())])


def places_of(loaded: Loaded) -> Places:
    """What a file says of Controller and broker."""
    tables = {key: table for key, table in loaded.documents.items() if key not in KINDS}
    return Places(tables, loaded.own)


def digest_of(loaded: Loaded) -> str:
    """Tells one version of a file, and of the code beside it, from another."""
    return revision({kind: loaded.documents.get(kind, []) for kind in KINDS})


def _token(place: ControllerPlace, store: Store) -> str:
    if place.token_file:
        return read_token(place.token_file, "controller.api_token_file")
    return place.token or read_token(str(store.token(TOKEN)), "the Controller's token")


def _how_to_token(place: ControllerPlace, store: Store) -> str:
    """What a person does to learn the token that the page asks for."""
    if place.token and not place.token_file:
        return "it asks for controller.api_token"
    return f"it asks for a token: cat {shlex.quote(place.token_file or str(store.token(TOKEN)))}"


class _Apply:
    """Brings a version of the file into force, unless it is the one that was last."""

    def __init__(self, engine: Engine, loaded: Loaded) -> None:
        self._engine = engine
        self._loaded = loaded

    async def __call__(self) -> list[str]:
        """What was done, a line each."""
        digest = digest_of(self._loaded)
        if digest == self._engine.desired.file:
            return []
        return (await self._engine.apply_file(self._loaded, places_of(self._loaded), digest)).changes


class _Reload:
    """Reads the file again; gives what changed, a line each."""

    def __init__(self, engine: Engine, file: Path) -> None:
        self._engine = engine
        self._file = file

    async def __call__(self) -> Sequence[str]:
        loaded = await asyncio.get_running_loop().run_in_executor(None, load, self._file)
        return await _Apply(self._engine, loaded)()


# --- the ready line ----------------------------------------------------------------------------


async def ready_lines(engine: Engine, where: str, refused: str = "") -> list[str]:
    """What is there and what can be called, a line each; the first begins with "ready".

    ``refused``: why the file is not in force.
    """
    platform = engine.platform
    broker = platform.broker
    parts = [f"controller {where}", f"broker {broker.address}:{broker.data_port}, {await _fast_path(engine)}"]
    for node in platform.nodes:
        daemons = [sort for sort, (_, port) in (("invoker", node.invoker), ("trigger", node.trigger)) if port]
        parts.append(f"node {node.name}: {' and '.join(daemons) or 'nothing'}")
    amiss = [f"the file, what was before is: {refused}"] if refused else []
    amiss += [f"{what} {why}" for what, why in engine.amiss.items()]
    lines = [f"ready{', but not all is in force' if amiss else ''}: {'; '.join(parts)}"]
    lines += [f"  NOT IN FORCE  {each}" for each in amiss]
    triggers = {each.name: each for each in platform.triggers}
    for workflow in platform.workflows:
        way = _way(workflow)
        lines += [f"  {_called(triggers[name])} -> {way}" for name in workflow.triggers] or [f"  {way}"]
    return lines


def _way(workflow: Workflow) -> str:
    steps = "".join(
        f" -> {step.function}{f' -> {step.result}' if step.result else ''}" for step in workflow.steps
    )
    return f"{workflow.topic} ({workflow.quality.value}){steps}"


def _called(trigger: Trigger) -> str:
    """How a signal is given to it, as far as that can be told without knowing the kind."""
    options: Mapping[str, Any] = trigger.options
    if trigger.kind == "http":
        method = (options.get("methods") or ["POST"])[0]
        answered = "answered" if options.get("answer") else "not answered"
        return (
            f"{method} http://{options.get('listen', '127.0.0.1:8080')}{options.get('path', '')} ({answered})"
        )
    return f"{trigger.kind} {trigger.name}" + (f" {options['listen']}" if options.get("listen") else "")


async def _fast_path(engine: Engine) -> str:
    assert engine.fleet.broker is not None, "set at the start"
    try:
        fast = (await engine.fleet.broker.status())["paths"]["fast"]
        return f"fast path {fast['mode']} ({fast['reason']})"
    except (Away, Refused) as error:
        return one_line(error)
    except (KeyError, TypeError):
        return "fast path unknown"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tempos_controller")
    parser.add_argument("file")
    parser.add_argument("--state")
    logs.add_options(parser, "warning")
    leave(run(parser.parse_args()))
