"""The bearer token of an HTTP door: given in a configuration, or in a file that it names.

Where others can read or change files with tokens, keys and passwords, that is said. A client refuses such a
file of its own; a daemon has more to lose by not starting, so it goes on.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tempos import ConfigError
from tempos._places import state_of
from tempos.auth import open_to_others
from tempos_daemon import toml
from tempos_daemon.files import read_start

#: What a token is made of.
PATTERN = re.compile(r"[!-~]{16,256}")
ALLOWED = "16 to 256 printable ASCII characters without space"

_log = logging.getLogger("tempos.daemon")

#: Options that are secrets, and one that is the secret itself or the path of a file with it.
_SECRET, _KEY = ("api_token", "token", "password"), "key"
_HEXADECIMAL = re.compile(r"[0-9A-Fa-f]{32,}")
#: What was said of each file, for it is not said again: some are read for every request.
_said: dict[Path, str] = {}


def made_here(daemon: str, url: str) -> Path | None:
    """The file with the token of a "trigger" or "invoker" at a URL that a Controller started on this machine.

    None: there is none of this user's whose state is at the usual place.
    """
    for file in state_of("controller", "").glob(f"*/parts/{daemon}-*/{daemon}.toml"):
        with contextlib.suppress(OSError, ValueError, ConfigError, KeyError):
            table = toml.document(toml.read_text(file), str(file))[daemon]
            if table["api"] == urlsplit(url).netloc:
                return Path(table["api_token_file"])
    return None


def read_token(path: str, key: str, read: Callable[[Path], bytes] = read_start) -> str:
    """The token in a file, whose bytes ``read`` gives; says it where others can read or change that.

    Raises :class:`ConfigError`, which names the ``key`` that names the file.
    """
    name = f"{key}: {path}"
    try:
        token = read(Path(path)).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError([f"{name} cannot be read: {error}"]) from error
    if not PATTERN.fullmatch(token):
        raise ConfigError([f"{name} does not hold {ALLOWED}"])
    tell_open(Path(path), key, _log)
    return token


def tell_open(path: Path, what: str, log: logging.Logger, *, secret: bool = True) -> None:
    """Warn if others than its owner and group can read the file, if that matters, or can change it."""
    why = open_to_others(path, secret=secret)
    if why and _said.get(path) != why:
        log.warning("%s %s %s", what, path, why)
    if why:
        _said[path] = why
    else:
        _said.pop(path, None)


def tell_all_open(file: Path, log: logging.Logger) -> None:
    """The same of a configuration, and of the files with keys that it names. Tokens' are told when read."""
    try:
        document = toml.document(toml.read_text(file), str(file))
    except ConfigError:
        # Who reads it says so.
        return
    secret = False
    for option, value in _strings(document):
        if option == _KEY and not _HEXADECIMAL.fullmatch(value):
            tell_open(Path(value), f"the file that a {_KEY} is in,", log)
        else:
            secret = True
    what = "the configuration, with secrets in it," if secret else "the configuration"
    tell_open(file, what, log, secret=secret)


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    """Every option that is, or leads to, a secret, with its value."""
    if isinstance(value, Mapping):
        for option, each in value.items():
            if isinstance(each, str):
                if each and option in (*_SECRET, _KEY):
                    yield option, each
            else:
                yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)
