"""Programs that are asked or recommended here: where they lie, and how a person types them.

On Debian what administers a system lies in folders that are in root's PATH alone, and not even there
after a plain ``su``.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

_ADMINISTRATORS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
#: Where sudo looks, as Debian has it.
_SUDO = (*_ADMINISTRATORS, "/usr/local/bin", "/usr/bin", "/bin")
_FOR_ROOT = frozenset(("apt-get", "ethtool", "modprobe", "mount", "nft", "sysctl"))


def search_path() -> str:
    """PATH and the folders of administrators behind it."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *_ADMINISTRATORS))


def located(name: str) -> str | None:
    """Where a program lies; None if there is none of that name."""
    return shutil.which(name, path=search_path())


def with_sudo(command: str) -> str:
    """A command of tempos as root, by the path of the one that runs if sudo would not find it by its name."""
    program = Path(sys.argv[0]).absolute()
    named = program.name != "tempos" or str(program.parent) in _SUDO
    return f"sudo {'tempos' if named else program} {command}"


def typed(fix: str, user: str) -> str:
    """A command that mends something, as this user types it."""
    first = fix.partition(" ")[0]
    return f"sudo {fix}" if user != "root" and first in _FOR_ROOT else fix
