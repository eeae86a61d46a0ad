"""Programs of others that tests run beside tempos: installed ones, and those that `make test` has fetched.

Who installs a system's log daemon changes that system. Such programs lie, with the libraries that they need
and nothing started, in a folder of the build.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import pytest

FETCHED = Path(__file__).resolve().parents[2] / "build" / "counterparts"
_PATH = os.pathsep.join(
    (os.environ.get("PATH", ""), "/usr/sbin", *(str(FETCHED / each) for each in ("usr/sbin", "usr/bin")))
)


def program(name: str) -> str:
    """Where it is; without it the test is left out."""
    if (found := shutil.which(name, path=_PATH)) is None:
        pytest.skip(f"{name} is neither installed nor fetched (`make test` as root does that)")
    return found


def command(name: str, *arguments: object) -> tuple[str, ...]:
    """One that starts it with the libraries it was fetched with, if it was."""
    libraries = f"LD_LIBRARY_PATH={library()}"
    return ("env", libraries, "MIBS=", program(name), *map(str, arguments))


def library(name: str = "") -> Path:
    """A folder of libraries or plug-ins, fetched or installed; without a name the one that holds them all."""
    architecture = sysconfig.get_config_var("MULTIARCH") or "."
    places = [root / "usr/lib" / part / name for root in (FETCHED, Path("/")) for part in (architecture, ".")]
    return next((place for place in places if place.exists()), places[0])
