"""The bearer token of an HTTP door: given in a configuration, or in a file that it names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tempos import ConfigError
from tempos_daemon.files import read_start

#: What a token is made of.
PATTERN = re.compile(r"[!-~]{16,256}")
ALLOWED = "16 to 256 printable ASCII characters without space"


def read_token(path: str, key: str, read: Callable[[Path], bytes] = read_start) -> str:
    """The token in a file, whose bytes ``read`` gives.

    Raises :class:`ConfigError`, which names the ``key`` that names the file.
    """
    name = f"{key}: {path}"
    try:
        token = read(Path(path)).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError([f"{name} cannot be read: {error}"]) from error
    if not PATTERN.fullmatch(token):
        raise ConfigError([f"{name} does not hold {ALLOWED}"])
    return token
