"""What privileged tests need. Missing: the test is skipped with the reason; with CI=true it fails."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from functools import cache
from pathlib import Path

import pytest

from tempos import Unavailable


def require_netns() -> None:
    """Network namespaces can be made and configured here."""
    require(_missing_netns())


def require_kernel() -> None:
    """BPF can be used here."""
    require(_missing_kernel())


def require(missing: str | None) -> None:
    """Go on if nothing is ``missing``."""
    if missing is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must run this test: {missing}")
    pytest.skip(missing)


def require_tracepoints(*names: str) -> None:
    """This kernel has them; a younger one does."""
    from tempos_bpf.layouts import kernel_types

    if missing := [name for name in names if not kernel_types().has_tracepoint(name)]:
        pytest.skip(f"this kernel has no tracepoint {', '.join(missing)}")


def everybodys_python() -> tuple[str, ...]:
    """A Python that any user can run this project's code by, as a command that takes the code next.

    Where it lies in somebody's home, that of the machine; skips where there is none of this version.
    """
    if _is_everybodys(Path(os.__file__)) and _is_everybodys(Path(sys.executable).resolve()):
        return (sys.executable, "-c")
    other = shutil.which(f"python{sys.version_info[0]}.{sys.version_info[1]}", path="/usr/bin")
    packages = sysconfig.get_path("purelib")
    if other is None or not all(_is_everybodys(Path(path)) for path in (other, packages, __file__)):
        pytest.skip("no Python here that every user can run")
    # What comes next is the last of the arguments that this one takes, and code, too.
    here = f"import site, sys; site.addsitedir({packages!r}); del sys.argv[0]; exec(sys.argv[0])"
    return (other, "-c", here)


def _is_everybodys(path: Path) -> bool:
    way = all(parent.stat().st_mode & 0o001 for parent in path.parents)
    return way and bool(path.stat().st_mode & 0o004)


@cache
def _missing_netns() -> str | None:
    from tempos_bench.nodes import topology

    return topology.missing()


@cache
def _missing_kernel() -> str | None:
    try:
        from tempos_bpf.maps import MapType, create_map
    except ImportError as error:
        return f"the fast path is not built: {error}"
    try:
        # That the kernel takes the programs themselves is what is tested, and no condition.
        create_map("probe", MapType.DEVMAP, key_size=4, value_size=4, max_entries=1).close()
    except Unavailable as error:
        return str(error)
    return None
