"""How commands reach the Controller: its address, its token, and what it says when it refuses."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, TypeVar

from tempos.cli.api import Api
from tempos.errors import ApiRefused, LocalError, RemoteError
from tempos.session.place import api_at
from tempos_controller.config.model import CONTROLLER_PORT
from tempos_controller.force.store import usual_folder

DEFAULT = f"http://127.0.0.1:{CONTROLLER_PORT}"
#: Seconds for an answer: a change may start daemons, and wait for one that comes back.
PATIENCE = 180.0
_T = TypeVar("_T")


def add_controller(parser: argparse.ArgumentParser) -> None:
    """Add ``--api``, ``--token-file`` and ``--name``."""
    parser.add_argument(
        "--api",
        metavar="URL",
        default=os.environ.get("TEMPOS_CONTROLLER", DEFAULT),
        help=f"the Controller's API (default: $TEMPOS_CONTROLLER, else {DEFAULT})",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="a file that holds its token (default: $TEMPOS_CONTROLLER_TOKEN holds the token itself, else "
        "the one that the Controller made for itself on this machine)",
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        # Not "name": that is what an order names.
        dest="controller",
        default="default",
        help="of the Controller, for its token (default: default)",
    )
    parser.set_defaults(fail=parser.error)


def controller(options: argparse.Namespace, patience: float = PATIENCE) -> Api:
    """The API; raises :class:`LocalError` for a token that cannot be read."""
    try:
        url = api_at(options.api, CONTROLLER_PORT)
    except LocalError as error:
        options.fail(f"--api: {error}")
    if not url.startswith(("http://", "https://")):
        options.fail(f"--api {url!r} is no http URL")
    return Api(url, token_for(options.token_file, options.controller), patience, "Controller")


def token_for(file: str | None, name: str = "default") -> str:
    """The token in ``file``; None: of the environment, or the one that the Controller of this name made.

    Raises :class:`LocalError` for a file that cannot be read.
    """
    if file is None and (token := os.environ.get("TEMPOS_CONTROLLER_TOKEN")):
        return token
    from pathlib import Path

    made = usual_folder(name) / "tokens" / "controller"
    path = Path(file) if file is not None else made
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        if file is None:
            return ""
        raise LocalError(f"the token in {path} cannot be read: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        if file is None:
            # Another user's; the API will say what is missing.
            return ""
        raise LocalError(f"the token in {path} cannot be read: {error}") from error


def ask(call: Callable[[], _T]) -> _T:
    """The answer; where several things are wrong with what was asked, each on a line of its own."""
    try:
        return call()
    except ApiRefused as error:
        if len(error.problems) > 1:
            said = error.detail.partition(":")[0]
            raise RemoteError("\n  ".join((f"{said}:", *error.problems))) from error
        raise


def changes_of(answer: Any, nothing: str) -> str:
    """What was or would be done, for people."""
    return "\n".join(answer["changes"]) or nothing
