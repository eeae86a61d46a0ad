"""Commands inside the root file system, with folders of this machine bound into it.

They run in a mount namespace of their own, so nothing stays mounted however they end. Of this machine's
environment they get nothing: what they do is the same everywhere.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
#: Arguments: the root, then pairs of a folder here and its place in the root, "--", the command.
_ENTER = """
root=$1; shift
mount -t proc proc "$root/proc"
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    shift 2
done
shift
exec chroot "$root" "$@"
"""


class Failed(Exception):
    """A command did not do what it was run for; carries what it said."""


def run(root: Path, command: Sequence[str], *, bind: Mapping[Path, str] | None = None,
        environment: Mapping[str, str] | None = None) -> str:  # fmt: skip
    """Run ``command`` in ``root`` with the folders of ``bind`` at the places that it gives; its output."""
    pairs = [str(part) for pair in (bind or {}).items() for part in pair]
    script = ("sh", "-euc", _ENTER, "enter", str(root), *pairs, "--", *command)
    return checked(("unshare", "--mount", "--", *script), {**_ENVIRONMENT, **(environment or {})})


def checked(command: Sequence[str], environment: Mapping[str, str] | None = None,
            folder: Path | None = None) -> str:  # fmt: skip
    """Run a command; its output, or :class:`Failed` with all it said."""
    done = subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False)  # fmt: skip
    if done.returncode:
        raise Failed(f"{' '.join(command[:8])} ... ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout
