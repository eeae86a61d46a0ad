"""Composition root: puts settings, state, invoker and API together, and runs them until a signal to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tempos_daemon.entry import leave, wait_for_configuration

if __name__ == "__main__":
    # What follows takes a while to be read.
    wait_for_configuration()

from tempos import ConfigError, TemposError
from tempos._output import make_whole
from tempos._places import state_of
from tempos.errors import one_line
from tempos_daemon import logs, loop
from tempos_daemon.http_server import HttpServer, Limits
from tempos_daemon.last_resort import LastResort
from tempos_daemon.notify import STOPPING, notify, ready, say
from tempos_daemon.rereading import Rereading
from tempos_daemon.signals import Signals
from tempos_daemon.token import read_token, tell_all_open
from tempos_invoker.api import application
from tempos_invoker.deploy import layout
from tempos_invoker.deploy.model import Deployment, Settings
from tempos_invoker.deploy.store import Store
from tempos_invoker.invoker import Invoker

log = logging.getLogger("tempos.invoker")

EXIT_OK, EXIT_FAILED, EXIT_UNUSABLE = 0, 1, 2
#: Seconds that a request may take to come: code may be large, and the way to here slow.
UPLOAD_WITHIN = 120.0


def run(options: argparse.Namespace) -> int:
    """Run an invoker until SIGINT or SIGTERM. ``options``: config (a path or None), check, log_level."""
    signals = Signals(LastResort(EXIT_FAILED))
    signals.hold()
    try:
        file = Path(options.config) if options.config else None
        settings, deployment = layout.load(file) if file else (Settings(), Deployment())
        logs.configure(options.log_level or settings.log or "warning", options.log_format)
        if options.check:
            print(f"{file}: ok, {len(deployment.functions)} functions, {len(deployment.steps)} steps")
            return EXIT_OK
        if file is not None:
            tell_all_open(file, log)
        return _run_loop(settings, deployment, signals, file)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_UNUSABLE
    except (OSError, TemposError) as error:
        print(f"tempos invoker: {one_line(error)}", file=sys.stderr)
        return EXIT_FAILED


def _run_loop(settings: Settings, deployment: Deployment, signals: Signals, file: Path | None) -> int:
    loop.run(serve(settings, deployment, signals, file), signals)
    return EXIT_OK


async def serve(settings: Settings, deployment: Deployment, signals: Signals, file: Path | None) -> None:
    """Serve until a signal to stop; prints the ``ready`` line once everything stands that needs no broker."""
    signals.attach()
    async with contextlib.AsyncExitStack() as stack:
        started = await signals.unless_stopped(_start(stack, settings, deployment, signals))
        if started is None:
            return
        invoker, where = started
        gc.collect()
        gc.freeze()
        doing = f"revision {invoker.deployment.revision!r}" if invoker.deployment else "no deployment yet"
        words = f"invoker {settings.name}; {doing}; {where}"
        say(f"ready: {words}")
        notify(ready(words))
        reloader = Rereading(_Reload(invoker, file))
        stack.push_async_callback(reloader.close)
        signals.reload_with(reloader.on_signal)
        await signals.wait()
        notify(STOPPING)


async def _start(
    stack: contextlib.AsyncExitStack, settings: Settings, deployment: Deployment, signals: Signals
) -> tuple[Invoker, str]:
    """Start everything, to be stopped in reverse with ``stack``; gives where the API is, too."""

    def at_the_end(name: str, work: Callable[[], Awaitable[object]]) -> None:
        stack.push_async_callback(signals.step, name, work)

    folder = Path(settings.state) if settings.state else state_of("invoker", settings.name)
    store = Store(folder)
    stack.callback(store.close)
    invoker = Invoker(settings, store)
    invoker.real_time.begin()
    stack.callback(invoker.real_time.end)
    invoker.strays.begin()
    server, where = _bind_api(settings, invoker)
    if server is not None:
        at_the_end("closing the API", server.close)
    at_the_end("finishing invocations", invoker.stop)
    if settings.fixed:
        await invoker.begin(deployment)
    else:
        await invoker.resume()
    if server is not None:
        await server.start()
    return invoker, where


def _bind_api(settings: Settings, invoker: Invoker) -> tuple[HttpServer | None, str]:
    """The API, not serving yet, and where it is."""
    host, port = settings.api
    if not port:
        return None, "api off"
    file = settings.api_token_file
    token = read_token(file, "invoker.api_token_file") if file else settings.api_token
    limits = Limits(request=UPLOAD_WITHIN)
    server = HttpServer(application(invoker, token), host, port, invoker.api_refused, limits)
    try:
        server.bind()
    except OSError as error:
        raise OSError(
            f"the API cannot listen on {host}:{port}: {error.strerror}; "
            'set invoker.api to another address, or to "off"'
        ) from error
    return server, f"api http://{host}:{server.port}"


class _Reload:
    """Reads the file again; gives what came of it, a line each."""

    def __init__(self, invoker: Invoker, file: Path | None) -> None:
        self._invoker = invoker
        self._file = file

    async def __call__(self) -> Sequence[str]:
        before = self._invoker.settings
        if self._file is None or not before.fixed:
            raise ConfigError(["no file holds the deployment of this invoker: the API changes it"])
        settings, deployment = await asyncio.get_running_loop().run_in_executor(None, layout.load, self._file)
        if settings != before:
            log.warning("%s: what is in [invoker] takes a restart; the rest is applied", self._file)
        await self._invoker.apply(deployment)
        return [f"in force, revision {deployment.revision!r}"]


def main() -> int:
    """``python -m tempos_invoker [-c FILE]``: the same as ``tempos invoker``."""
    make_whole()
    parser = argparse.ArgumentParser(prog="python -m tempos_invoker")
    parser.add_argument("-c", "--config")
    parser.add_argument("--check", action="store_true")
    logs.add_options(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    leave(main())
