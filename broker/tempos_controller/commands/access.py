"""How commands reach the Controller: its address, its token, and what it says when it refuses."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, TypeVar

from tempos._places import state_of
from tempos.cli.api import Api
from tempos.errors import ApiRefused, LocalError, RemoteError
from tempos.session.place import api_at
from tempos_controller.config.model import CONTROLLER_PORT

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
    return api_of(url, options.token_file, patience, options.controller)


def api_of(
    url: str, token_file: str | None, patience: float, name: str = "default", option: str = "--token-file"
) -> Api:
    """The API at a URL, with the token in a file that ``option`` names; raises :class:`LocalError`."""
    token, given = _token(token_file, name)
    ways = f"{option} FILE or $TEMPOS_CONTROLLER_TOKEN"
    return Api(url, token, patience, "Controller", given=given, ways=ways)


def _token(file: str | None, name: str) -> tuple[str, str]:
    """The token in ``file``; None: of the environment, or the one that the Controller of this name made.

    And where it was found. Raises :class:`LocalError` for a file that cannot be read.
    """
    if file is None and (token := os.environ.get("TEMPOS_CONTROLLER_TOKEN")):
        return token, "in $TEMPOS_CONTROLLER_TOKEN"
    from pathlib import Path

    made = state_of("controller", name) / "tokens" / "controller"
    path = Path(file) if file is not None else made
    try:
        return path.read_text(encoding="utf-8").strip(), f"in {path}"
    except FileNotFoundError:
        if file is None:
            return "", ""
        raise LocalError(f"the token in {path} cannot be read: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        if file is None:
            # Another user's; the API will say what is missing.
            return "", ""
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


def made(item: Any) -> str:
    """Where an item comes from, for people."""
    return "by the file" if item["origin"] == "file" else "at run time"


def changes_of(answer: Any, nothing: str) -> str:
    """What was or would be done, for people."""
    return "\n".join(answer["changes"]) or nothing
