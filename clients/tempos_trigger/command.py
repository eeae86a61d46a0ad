"""The command ``tempos trigger``; what it needs is imported when it runs."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from tempos_daemon import logs

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_EXAMPLES = """\
examples:
  tempos trigger
        wait for a deployment over the API, 127.0.0.1:9994; the one of the last time is in force at once
  tempos trigger -c config/trigger.toml
        serve the endpoints of a file; SIGHUP reads it again
  tempos trigger -c config/trigger.toml --check
        only find out whether the file is sound

A file holds [trigger] (name, api, api_token, api_token_file, state, log) and, if it is to be the deployment
itself, [broker] and [[endpoint]]. Prints one line that begins with "ready" when every endpoint is open.
Stops cleanly, within 5 seconds: takes nothing more in, publishes what waits.
"""


def register(subparsers: Subparsers) -> None:
    """Add ``tempos trigger``."""
    parser = subparsers.add_parser(
        "trigger",
        help="turn signals from outside into events",
        description="Turn signals from outside (HTTP, MQTT, timers, files, ...) into events.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="what to do, in TOML")
    parser.add_argument("--check", action="store_true", help="only check the file")
    logs.add_options(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.check and not options.config:
        print("tempos trigger: --check needs a file: -c FILE", file=sys.stderr)
        return 2
    from tempos_trigger.__main__ import run

    return run(options)
