"""Composition root: settings, state, trigger and API on one event loop, until a signal says to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tempos_daemon.entry import leave, wait_for_configuration

if __name__ == "__main__":
    # What follows takes a while to be read.
    wait_for_configuration()

from tempos import ConfigError, TemposError, Unavailable
from tempos._places import state_of
from tempos_daemon import logs, loop
from tempos_daemon.http_server import HttpServer
from tempos_daemon.last_resort import LastResort
from tempos_daemon.notify import STOPPING, notify, ready, say
from tempos_daemon.rereading import Rereading
from tempos_daemon.signals import Signals
from tempos_daemon.token import tell_all_open
from tempos_trigger import api, settings
from tempos_trigger.model import Deployment
from tempos_trigger.settings import Settings
from tempos_trigger.store import Store
from tempos_trigger.trigger import Trigger

log = logging.getLogger("tempos.trigger")

#: What is as it was at the start.
FIXED = ("name", "api", "api_token", "state", "log", "priority")

EXIT_OK, EXIT_FAILED, EXIT_UNUSABLE = 0, 1, 2


def run(options: argparse.Namespace) -> int:
    """Run a trigger until told to stop. ``options``: config (path or None), check, log_level (or None)."""
    logs.configure(options.log_level or "info", options.log_format)
    signals = Signals(LastResort(EXIT_FAILED))
    signals.hold()
    try:
        told = Settings() if options.config is None else settings.load(options.config)
        if options.check:
            count = 0 if told.deployment is None else len(told.deployment.endpoints)
            print(f"{options.config}: ok, {count} endpoint{'' if count == 1 else 's'}")
            return EXIT_OK
        logs.configure(options.log_level or told.log, options.log_format)
        if options.config is not None:
            tell_all_open(Path(options.config), log)
        return _run_loop(told, options.config, signals)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_UNUSABLE
    except (OSError, TemposError) as error:
        print(f"tempos trigger: {error}", file=sys.stderr)
        return EXIT_FAILED


def _run_loop(told: Settings, file: str | None, signals: Signals) -> int:
    loop.run(_serve(told, file, signals), signals)
    return EXIT_OK


async def _serve(told: Settings, file: str | None, signals: Signals) -> None:
    signals.attach()
    async with contextlib.AsyncExitStack() as stack:
        started = await signals.unless_stopped(_start(stack, told, file, signals))
        if started is None:
            return
        trigger, where, reload = started
        words = f"{trigger.describe()}; {where}"
        say(f"ready: {words}")
        notify(ready(words))
        signals.reload_with(reload)
        await signals.wait()
        notify(STOPPING)


async def _start(
    stack: contextlib.AsyncExitStack, told: Settings, file: str | None, signals: Signals
) -> tuple[Trigger, str, Callable[[], None]]:
    """Start everything, to be stopped in reverse with ``stack``."""

    def at_the_end(name: str, work: Callable[[], Awaitable[object]]) -> None:
        stack.push_async_callback(signals.step, name, work)

    store = Store(told.state or state_of("trigger", told.name))
    store.hold()
    by_file = told.deployment is not None
    trigger = Trigger(told.name, store, keep=not by_file, priority=told.priority)
    trigger.real_time.begin()
    stack.callback(trigger.real_time.end)
    at_the_end("closing the endpoints", trigger.close)
    again = Rereading(_Reload(trigger, file if by_file else None, told))
    at_the_end("reloading", again.close)
    server, where = _bind_api(told, trigger, by_file=by_file)
    if server is not None:
        at_the_end("closing the API", server.close)
    if told.deployment is not None:
        await trigger.apply(told.deployment, "file")
    else:
        await trigger.restore()
    if server is not None:
        await server.start()
    return trigger, where, again.on_signal


def _bind_api(told: Settings, trigger: Trigger, *, by_file: bool) -> tuple[HttpServer | None, str]:
    host, port = told.api
    if not port:
        return None, "no API"
    app = api.application(trigger, told.api_token, by_file=by_file)
    server = HttpServer(app, host, port, trigger.api_refused)
    try:
        server.bind()
    except OSError as error:
        raise Unavailable(f"the API cannot have {host}:{port}: {error.strerror}; set trigger.api") from error
    return server, f"api http://{host}:{port}"


class _Reload:
    """Reads the file again; gives what changed, a line each."""

    def __init__(self, trigger: Trigger, file: str | None, told: Settings) -> None:
        self._trigger = trigger
        self._file = file
        self._told = told

    async def __call__(self) -> Sequence[str]:
        if self._file is None:
            raise ConfigError(["the deployment of this trigger is no file's: the API changes it"])
        return await self._trigger.apply(await self._read(self._file), "file")

    async def _read(self, file: str) -> Deployment:
        told = await asyncio.get_running_loop().run_in_executor(None, settings.load, file)
        if other := [each for each in FIXED if getattr(told, each) != getattr(self._told, each)]:
            names = ", ".join(f"trigger.{each}" for each in other)
            raise ConfigError([f"{file}: {names} cannot change while it runs: restart it"])
        if told.deployment is None:
            raise ConfigError([f"{file}: holds no deployment any more; allowed: [broker] and [[endpoint]]"])
        return told.deployment


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tempos_trigger")
    parser.add_argument("-c", "--config", type=Path)
    parser.add_argument("--check", action="store_true")
    logs.add_options(parser)
    leave(run(parser.parse_args()))
