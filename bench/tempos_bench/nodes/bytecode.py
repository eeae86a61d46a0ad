"""Programs begin as installed ones do: with their modules compiled.

Where nothing is to be written beside the sources (PYTHONDONTWRITEBYTECODE) each start would compile all of
them again, as long as all else of it takes: so what is compiled goes to a folder that ends with this process.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import lru_cache
from pathlib import Path


def environment() -> dict[str, str]:
    """The environment of a program that is started."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if sys.dont_write_bytecode:
        env |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": _folder().name}
    return env


@lru_cache(1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="tempos-bytecode-", ignore_cleanup_errors=True)
    # Also for a broker that becomes another user.
    Path(folder.name).chmod(0o755)
    return folder
