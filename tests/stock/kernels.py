"""Kernels by the names of their packages: fetched, unpacked, and made ready to boot.

A name may be that of a package which only depends on the newest kernel (linux-image-amd64). What a kernel
needs before it can read its disks, it gets from a small first file system (initrd.py); the rest of its
modules are an image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from stock import cache, chroot, image, initrd, needs, root
from stock.chroot import Failed, checked
from stock.needs import Missing

_DEPENDS = re.compile(r"^\s*Depends:\s*(linux-image-\S+)$", re.M)
_STEPS = 4


@dataclass(frozen=True)
class Kernel:
    """A kernel that can be booted; ``wanted`` is the name that was asked for."""

    wanted: str
    package: str
    release: str
    image: Path
    initrd: Path
    modules: Path


def prepare(wanted: str) -> Kernel:
    """Fetch and unpack the kernel of a package, unless that was done before."""
    try:
        return _prepare(wanted)
    except (Missing, Failed):
        # Lists that are missing, or older than what the archive still has.
        needs.update_lists()
        return _prepare(wanted)


def _prepare(wanted: str) -> Kernel:
    package = _resolve(wanted)
    version = _candidate(package)
    name = f"{package}_{version}_{cache.digest(root.key(), initrd.SCRIPT)}"
    place = cache.entry(f"kernels/{wanted}", name, lambda place: _make(package, place))
    files = (place / name for name in ("vmlinuz", "initrd", "modules.img"))
    return Kernel(wanted, f"{package} {version}", (place / "release").read_text(), *files)


def _resolve(wanted: str) -> str:
    """The package with the kernel itself."""
    package = wanted
    for _ in range(_STEPS):
        try:
            said = checked(("apt-cache", "depends", "--important", package))
        except Failed as error:
            raise Missing(f"apt knows no package {package}: {error}") from error
        further = _DEPENDS.findall(said)
        if not further:
            return package
        package = further[0]
    raise Missing(f"{wanted} leads from package to package and to no kernel")


def _candidate(package: str) -> str:
    for line in checked(("apt-cache", "policy", package)).splitlines():
        if line.strip().startswith("Candidate:"):
            version = line.partition(":")[2].strip()
            if version != "(none)":
                return version
    raise Missing(f"apt offers no version of {package}")


def _make(package: str, place: Path) -> None:
    print(f"fetching {package}", flush=True)
    # As the user who may write here; apt would drop to its own.
    checked(("apt-get", "-o", "APT::Sandbox::User=root", "download", "-q", package), folder=place)
    (archive,) = place.glob("*.deb")
    files = place / "files"
    checked(("dpkg-deb", "-x", str(archive), str(files)))
    archive.unlink()
    kernels = sorted((files / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise Missing(f"the package {package} holds {len(kernels)} kernels")
    release = kernels[0].name.partition("-")[2]
    kernels[0].rename(place / "vmlinuz")
    # Newer packages put modules below usr.
    modules = next(path for path in (files / "lib/modules", files / "usr/lib/modules") if path.is_dir())
    checked(("mkdir", "-p", str(files / "tree/lib")))
    modules.rename(files / "tree/lib/modules")
    chroot.run(root.folder(), ("depmod", "-b", root.MODULES, release), bind={files / "tree": root.MODULES})
    initrd.make(files / "tree", release, place / "initrd")
    image.make(files / "tree/lib/modules", place / "modules.img")
    cache.remove(files)
    (place / "release").write_text(release)
