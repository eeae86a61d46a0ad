"""What of tempos is installed: the packages behind each extra, and what the build compiled or left out.

Which packages an extra stands for is read from tempos' own metadata, what is compiled from the account that
the build left.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

from tempos.doctor.findings import Area, Asked, Check, Severity, Tried
from tempos.errors import one_line

EXTRAS = {
    "broker": "the broker serves with asyncio's own loop, one datagram a call, and without its control API",
    "fastpath": "the broker serves by the slow path alone",
    "bench": "without matplotlib there are no pictures, without another no demo and no benchmarks",
    "invoker": "nothing runs functions, or only those in Python",
}
#: What the build wrote down: of a wheel, and of a source tree, which several Pythons may share.
_ACCOUNTS = ("_parts.json", f"_parts{sysconfig.get_config_var('EXT_SUFFIX')}.json")
_COMPILERS = ("gcc", "cc", "clang")
_CLANGS = ("clang-14", "clang")
_LIBBPF = Path("/usr/include/bpf/libbpf.h")
_AGAIN = "pip install --force-reinstall --no-deps --no-cache-dir"
#: What tempos was installed from, where that is not known.
_SOURCE = "FOLDER-OF-THE-SOURCE"
_REQUIREMENT = re.compile(r"\s*([\w.-]+)")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w-]+)['"]""")
_PYTHON = re.compile(r"""python_version\s*<\s*['"](\d+)\.(\d+)['"]""")


def _again() -> str:
    """The command that builds anew what was built; by where this installation came from, if that is known."""
    known: dict[str, Any] = {}
    with contextlib.suppress(metadata.PackageNotFoundError, ValueError, TypeError):
        known = json.loads(metadata.distribution("tempos").read_text("direct_url.json") or "{}")
    source = str(known.get("url", "")).removeprefix("file://") or _SOURCE
    if known.get("dir_info", {}).get("editable"):
        return f"make -C {source} setup"
    return f"{_AGAIN} {source}"


def gather(_asked: Asked) -> Iterator[Tried]:
    """Look for the packages of each extra, and, where they are all there, for what the build made of it."""
    for extra in EXTRAS:
        missing = lacking_packages(extra)
        fix = f"pip install 'tempos[{extra}]'"
        cause = f"{', '.join(missing)} not installed" if missing else "all packages are installed"
        yield Tried("TD001", not missing, cause, f"tempos[{extra}]", fix=fix, means=EXTRAS[extra])
        if not missing:
            yield from _parts(extra)


def lacking_packages(extra: str) -> list[str]:
    """The packages of an extra that are not installed; none where nobody says which those are."""
    return [name for name in _needs(extra) if not _installed(name)]


def _parts(extra: str) -> Iterator[Tried]:
    """What was to be compiled for it, and what came of that."""
    lacking = False
    for part in _account():
        if part["extra"] != extra:
            continue
        name, program = part["name"], part["name"].endswith(".bpf.o")
        why = _not_there(name) if program else _not_loadable(name)
        if why and part["why"]:
            why = one_line(f"the build left it out: {part['why']}")
        lacking |= bool(why)
        check = "TD003" if program else "TD002"
        yield Tried(check, not why, why or "built", name, means=EXTRAS[extra], fix=_again() if why else "")
    if lacking:
        yield from _tools(extra)


def _account() -> list[dict[str, str]]:
    """What the build wrote down of each part; empty where there is nothing, or nothing to be understood."""
    for name in _ACCOUNTS:
        try:
            found = json.loads(_folder("tempos").joinpath(name).read_text())
            return [{key: str(part[key]) for key in ("name", "extra", "why")} for part in found]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return []


def _tools(extra: str) -> Iterator[Tried]:
    """What the build needs, where it lacked something."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), "")
    yield _tool("C compiler", compiler, "gcc libc6-dev")
    header = Path(sysconfig.get_path("include"), "Python.h")
    yield _tool("Python's headers", str(header) if header.exists() else "", "python3-dev")
    if extra not in ("broker", "invoker"):
        yield _tool("clang", next(filter(None, map(shutil.which, _CLANGS)), ""), "clang")
        yield _tool("libbpf's headers", str(_LIBBPF) if _LIBBPF.exists() else "", "libbpf-dev linux-libc-dev")


def _tool(name: str, where: str, packages: str) -> Tried:
    fix = f"apt-get install {packages} && {_again()}"
    return Tried("TD004", bool(where), where or "not found", name, fix=fix)


def _needs(extra: str) -> Iterator[str]:
    """The packages that an extra names for this Python; none of tempos' own."""
    try:
        lines = metadata.requires("tempos") or ()
    except metadata.PackageNotFoundError:
        # Run from a source tree that was never installed: nobody says.
        return
    for line in lines:
        requirement, _, marker = line.partition(";")
        found = _EXTRA.search(marker)
        older = _PYTHON.search(marker)
        if found is None or found[1] != extra:
            continue
        if older is not None and sys.version_info >= (int(older[1]), int(older[2])):
            continue
        name = _REQUIREMENT.match(requirement)
        if name is not None:
            yield name[1]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _not_there(name: str) -> str:
    package, _, file = name.partition("/")
    return "" if _folder(package).joinpath(file).is_file() else "it is not there"


def _not_loadable(module: str) -> str:
    """Why an extension cannot be imported; empty if it can."""
    try:
        import_module(module)
    except ModuleNotFoundError:
        return "it is not there"
    except ImportError as error:
        return one_line(error)
    return ""


def _folder(package: str) -> Path:
    """Where a package lies; its code is not run."""
    found = util.find_spec(package)
    return Path(found.origin).parent if found is not None and found.origin else Path(package)


INSTALLATION = Area(
    "installation",
    (
        Check("TD001", "packages", Severity.NOTE),
        Check("TD002", "extension", Severity.WARNING, fix=f"{_AGAIN} {_SOURCE}"),
        Check("TD003", "BPF object", Severity.WARNING, fix=f"{_AGAIN} {_SOURCE}"),
        Check("TD004", "build tool", Severity.NOTE),
    ),
    lambda asked: tuple(gather(asked)),
)
