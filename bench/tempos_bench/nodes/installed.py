"""What is installed on this machine: programs, and distributions of Python packages."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def executable(program: str) -> str | None:
    """Where a program is, None if nowhere: beside this Python before others are looked at.

    Debian keeps some where only root looks.
    """
    ours = str(Path(sys.executable).parent)
    return (
        shutil.which(program, path=ours)
        or shutil.which(program)
        or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    )


def distribution(name: str) -> str | None:
    """The version of a Python package, None if it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def version(command: Sequence[str]) -> str:
    """The first version number that a program says when it is started so."""
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    found = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
    return found.group() if found else "unknown"
