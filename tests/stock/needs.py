"""What a machine must have to boot kernels; what can be installed is installed, the rest is told."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping

#: Commands, and the packages that bring them.
COMMANDS: Mapping[str, str] = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "unshare": "util-linux",
    "git": "git",
}


class Missing(Exception):
    """Something that this machine lacks, in words."""


def ensure() -> None:
    """Install what is missing, as far as that can be done here; raises :class:`Missing` otherwise."""
    if platform.machine() != "x86_64":
        raise Missing(f"kernels are booted as x86_64, and this machine is {platform.machine()}")
    if os.geteuid():
        raise Missing("root is needed: the root file system is made and entered by chroot")
    for command in ("apt-get", "dpkg-deb"):
        if shutil.which(command) is None:
            raise Missing(f"{command} is not here: kernels and the root file system are Debian's packages")
    packages = sorted({package for command, package in COMMANDS.items() if shutil.which(command) is None})
    if packages:
        _install(packages)


def update_lists() -> None:
    """Have apt look for what there is now."""
    _apt("update")


def _install(packages: list[str]) -> None:
    print(f"installing {' '.join(packages)}", flush=True)
    update_lists()
    _apt("install", "-y", "--no-install-recommends", *packages)


def _apt(*words: str) -> None:
    done = subprocess.run(
        ("apt-get", "-qq", *words),
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Missing(f"apt-get {' '.join(words)}: {done.stderr.strip()}")
