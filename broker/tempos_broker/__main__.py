"""Composition root: puts configuration, fast path, broker and control API together, and runs them.

The only module of the broker that knows the fast path; whatever keeps that from working becomes a
reason in the status and in the log, never a failure of the broker.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path

from tempos import ConfigError, TemposError, Unavailable
from tempos_broker.broker import Broker
from tempos_broker.config import load
from tempos_broker.config.model import BrokerConfig
from tempos_broker.paths import FastPath, NoFastPath

log = logging.getLogger("tempos.broker")

EXIT_OK, EXIT_FAILED, EXIT_UNUSABLE = 0, 1, 2


def run(options: argparse.Namespace) -> int:
    """Run a broker until SIGINT or SIGTERM. ``options``: config (path), portable, log_level."""
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        config = load(Path(options.config))
        return _run_loop(config, portable=options.portable)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_UNUSABLE
    except (OSError, TemposError) as error:
        print(f"tempos broker: {error}", file=sys.stderr)
        return EXIT_FAILED


def _run_loop(config: BrokerConfig, *, portable: bool) -> int:
    try:
        import uvloop
    except ImportError:
        log.info("uvloop is not installed: asyncio's own event loop serves")
        new_loop = asyncio.new_event_loop
    else:
        new_loop = uvloop.new_event_loop
    loop = new_loop()
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve(config, portable=portable))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        asyncio.set_event_loop(None)
        loop.close()
    return EXIT_OK


async def serve(config: BrokerConfig, *, portable: bool = False) -> None:
    """Serve until a signal to stop; prints the ``ready`` line once everything is in place."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        fast = await start_fast_path(config)
        stack.push_async_callback(fast.close)
        broker = await stack.enter_async_context(Broker(config, fast, portable=portable))
        api = await _start_api(stack, config, broker)
        print(f"ready: {broker.describe()}; {api}", flush=True)
        await stop.wait()
        log.info("stopping")


async def start_fast_path(config: BrokerConfig) -> FastPath:
    """The fast path of this machine, or a stand-in that says why there is none."""
    if config.fastpath.mode == "off":
        return NoFastPath("switched off in the configuration")
    try:
        from tempos_fastpath import offload

        return await offload.start(
            listen=config.listen,
            port=config.data_port,
            mode=config.fastpath.mode,
            interfaces=config.fastpath.interfaces,
        )
    except ImportError as error:
        reason = f"tempos[fastpath] is not installed ({error})"
    except Unavailable as error:
        reason = str(error)
    log.warning("no fast path: %s", reason)
    return NoFastPath(reason)


async def _start_api(stack: contextlib.AsyncExitStack, config: BrokerConfig, broker: Broker) -> str:
    """Start the control API, closed with ``stack``, if it can be had; tells where it is or why not."""
    if not config.api_port:
        return "api off"
    try:
        from tempos_broker.api import ApiServer, application
    except ImportError as error:
        return f"api off: install tempos[broker] ({error.name} is missing)"
    where = f"{config.api_host}:{config.api_port}"
    server = ApiServer(application(broker.status), config.api_host, config.api_port)
    try:
        await server.start()
    except OSError as error:
        raise OSError(
            f"the control API cannot listen on {where}: {error.strerror}; "
            'set broker.api to another address, or to "off"'
        ) from error
    stack.push_async_callback(server.close)
    return f"api http://{where}"


def main() -> int:
    """``python -m tempos_broker -c FILE``: the same as ``tempos broker``."""
    parser = argparse.ArgumentParser(prog="python -m tempos_broker")
    parser.add_argument("-c", "--config", required=True)
    parser.add_argument("--portable", action="store_true")
    parser.add_argument("--log-level", default="warning")
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
