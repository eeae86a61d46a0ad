"""The tree under test, installed inside the root as anybody would install it there: by `make setup`.

Only files that changed are copied, so `make` builds anew what it would build anew here. The root has no
network: Python packages are fetched by this machine's pip, for the root's Python, and kept.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from stock import cache, chroot, image, root
from stock.chroot import checked

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SOURCE = Path(__file__).resolve().parents[2]
#: The root's Python.
PYTHON = (3, 11)
_GLIBC = (36, 35, 34, 31, 28, 27, 24, 17, 12, 5)
_PLATFORMS = ("manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in _GLIBC))
_LIST = ".files"
#: The project's own modules; and, by collecting them, tests and plug-ins, which pytest rewrites.
_COMPILE = (
    ".venv/bin/python -m compileall -q broker clients fastpath bench tests",
    ".venv/bin/pytest -q --collect-only -p no:cacheprovider tests/kernel tests/networks tests/parity",
)
#: How an extra names others of the project.
_OWN = re.compile(r"tempos\[([a-z,-]+)\]")


@functools.cache
def disk() -> Path:
    """The image of the tree as it is now, installed; the same for all kernels of one run."""
    place = cache.ROOT / "trees" / f"{SOURCE.name}-{cache.digest(SOURCE, root.key())}"
    _forget_gone()
    files = place / "files"
    files.mkdir(parents=True, exist_ok=True)
    (place / "source").write_text(str(SOURCE))
    now, holds, made = _copy(files, place / _LIST), place / "holds", place / "tree.img"
    if made.exists() and holds.exists() and holds.read_text() == now:
        return made
    holds.unlink(missing_ok=True)
    _install(files)
    # Never half an image under this name; and a boot that still has the old one open keeps it.
    fresh = place / "fresh.img"
    image.make(files, fresh)
    fresh.rename(made)
    holds.write_text(now)
    return made


def _forget_gone() -> None:
    """Remove the trees of checkouts that are no more."""
    for told in cache.ROOT.glob("trees/*/source"):
        if not Path(told.read_text()).is_dir():
            cache.remove(told.parent)


def _copy(files: Path, remembered: Path) -> str:
    """Make ``files`` hold what git has or would take of the source, and what was built there before.

    Returns what tells one state of the source from another.
    """
    said = checked(("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"), folder=SOURCE)
    names = {name for name in said.split("\0") if name and (SOURCE / name).is_file()}
    before = set(remembered.read_text().split("\0")) if remembered.exists() else set()
    for name in before - names - {""}:
        (files / name).unlink(missing_ok=True)
    state = []
    for name in sorted(names):
        source, target = SOURCE / name, files / name
        was, now = target.stat() if target.exists() else None, source.stat()
        if was is None or (was.st_mtime_ns, was.st_size) != (now.st_mtime_ns, now.st_size):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        state.append((name, now.st_mtime_ns, now.st_size))
    remembered.write_text("\0".join(sorted(names)))
    return cache.digest(*state)


def _install(files: Path) -> None:
    environment = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": root.WHEELS,
        "PIP_NO_CACHE_DIR": "1",
        "TEMPOS_REQUIRE_NATIVE": "1",
    }
    print("installing the tree in the root", flush=True)
    bind = {files: root.TREE, _wheels(): root.WHEELS}
    chroot.run(root.folder(), ("make", "-C", root.TREE, "setup"), bind=bind, environment=environment)
    # What an emulated machine would compile anew at every boot, for minutes, is compiled here and once.
    for command in _COMPILE:
        chroot.run(root.folder(), ("sh", "-euc", f"cd {root.TREE}; {command}"), bind=bind)


def _needs(extra: str, extras: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """What an extra asks for, and those of the project's own extras that it names."""
    for need in extras[extra]:
        if named := _OWN.fullmatch(need):
            for each in named[1].split(","):
                yield from _needs(each, extras)
        else:
            yield need


def grouped(name: str, groups: Mapping[str, Sequence[str | Mapping[str, str]]]) -> Iterator[str]:
    """What a dependency group wants, with the groups that it includes."""
    for each in groups[name]:
        if isinstance(each, str):
            yield each
        else:
            yield from grouped(each["include-group"], groups)


def _wheels() -> Path:
    """A folder with every Python package that the set-up asks for."""
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())
    about = project["project"]
    extras = about["optional-dependencies"]
    wanted = [
        "pip",
        "editables",  # what hatchling asks for when it makes an editable install
        *project["build-system"]["requires"],
        *about["dependencies"],
        *_needs("all", extras),
        *grouped("dev", project["dependency-groups"]),
    ]
    constraints = SOURCE / "constraints.txt"

    def fetch(place: Path) -> None:
        print("fetching Python packages", flush=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "-d", str(place), "-c", str(constraints)]
        if sys.version_info[:2] != PYTHON:
            command += ["--only-binary", ":all:", "--python-version", ".".join(map(str, PYTHON))]
            command += [part for platform in _PLATFORMS for part in ("--platform", platform)]
        checked((*command, *wanted), dict(os.environ))

    return cache.entry("wheels", cache.digest(constraints.read_text(), *wanted, PYTHON), fetch)
