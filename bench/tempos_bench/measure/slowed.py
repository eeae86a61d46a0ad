"""A fast path whose program is slower on purpose, to find out whether a benchmark notices.

The program's own source is compiled with one line more at the entry, into a temporary folder that looks
like the package `tempos_fastpath` and lies before it on the module path of the programs started
meanwhile. Nothing of it is built or installed with the product, which knows nothing of it.
Needs the checkout and clang.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tempos import Unavailable

_ROOT = Path(__file__).parents[3]
_SOURCE = _ROOT / "fastpath" / "bpf" / "fastpath.bpf.c"
_HEADERS = (_ROOT / "fastpath" / "bpf", _ROOT / "bench" / "bpf")
_ENTRY = re.compile(r'(SEC\("xdp"\)\nint tempos_fastpath\(struct xdp_md \*(\w+)\)\n\{\n)')
_LAST_INCLUDE = re.compile(r"(?s)(.*\n#include [^\n]+\n)")


@contextmanager
def slowed(steps: int) -> Iterator[None]:
    """Meanwhile, brokers that are started load a program with ``steps`` of delay (0: none, but so built).

    Raises :class:`Unavailable` where it cannot be built.
    """
    package = _package()
    with tempfile.TemporaryDirectory(prefix="tempos-slowed-") as folder:
        copy = Path(folder, package.name)
        copy.mkdir()
        for path in package.iterdir():
            if path.name != "fastpath.bpf.o":
                Path(copy, path.name).symlink_to(path)
        _compile(steps, Path(folder, "slowed.bpf.c"), copy / "fastpath.bpf.o")
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = folder if before is None else f"{folder}{os.pathsep}{before}"
        try:
            yield
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


def _compile(steps: int, source: Path, target: Path) -> None:
    clang = shutil.which("clang-14") or shutil.which("clang")
    if clang is None:
        raise Unavailable("clang is not installed: it compiles the program that is slowed down")
    if not _SOURCE.is_file():
        raise Unavailable(f"{_SOURCE} is not here: this needs a checkout")
    text, entries = _ENTRY.subn(r"\1\t\2 = tempos_bench_delayed(\2);\n", _SOURCE.read_text())
    if entries != 1:
        raise Unavailable(f"{_SOURCE} has {entries} programs named tempos_fastpath, not one")
    source.write_text(_LAST_INCLUDE.sub(r'\1#include "delay.h"\n', text, count=1))
    includes = [part for folder in _HEADERS for part in ("-I", str(folder))]
    system = f"/usr/include/{sysconfig.get_config_var('MULTIARCH') or ''}"
    done = subprocess.run(
        [clang, "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror",
         f"-DTEMPOS_BENCH_DELAY={steps}", *includes, "-idirafter", system,
         "-c", str(source), "-o", str(target)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Unavailable(f"the slowed program does not compile: {done.stderr.strip()}")


def _package() -> Path:
    # Found, not imported: this package only starts programs of that one.
    found = importlib.util.find_spec("tempos_fastpath")
    if found is None or found.origin is None:
        raise Unavailable("tempos_fastpath is not installed: pip install 'tempos[fastpath]'")
    return Path(found.origin).parent
