"""The root file system: a plain Debian 12 with what tempos is built with, and its image."""

from __future__ import annotations

from pathlib import Path

from stock import cache, image
from stock.chroot import checked

SUITE = "bookworm"
PACKAGES = (
    # to build and to install
    "clang-14", "gcc", "libbpf-dev", "libc6-dev", "make", "python3-dev", "python3-venv",
    # to make networks and to look at them
    "ethtool", "iproute2", "kmod", "procps", "util-linux", "wireguard-tools",
    # the first programs of a boot
    "busybox-static",
)  # fmt: skip
#: Where in the root its tree, its wheels and modules to work on are bound.
TREE, WHEELS, MODULES = "/srv/tempos", "/srv/wheels", "/srv/modules"


def folder() -> Path:
    """The root file system as a folder to chroot into."""
    return _made() / "root"


def disk() -> Path:
    """Its image."""
    return _made() / "root.img"


def key() -> str:
    """Changes with what is in it."""
    return cache.digest(SUITE, *PACKAGES, TREE, WHEELS, MODULES)


def _made() -> Path:
    return cache.entry("root", key(), _make)


def _make(place: Path) -> None:
    print(f"making a root file system of {SUITE} (a minute or two)", flush=True)
    include = ",".join(PACKAGES)
    root = place / "root"
    checked(("mmdebstrap", "--variant=minbase", f"--include={include}", SUITE, str(root)))
    for mount_point in (TREE, WHEELS, MODULES):
        (root / mount_point.lstrip("/")).mkdir(parents=True)
    image.make(root, place / "root.img")
