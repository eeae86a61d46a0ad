"""The function of the source's measurements, compiled for each way to run it; what cannot be, says why."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

from tempos import Unavailable
from tempos.errors import one_line

SOURCES = Path(__file__).parent
#: 351 bytes of JSON in which the pattern occurs 20 times, as a small event of a plant would have it.
EVENT = json.dumps({"message": ("-" * 8 + "abc" + "." * 4) * 20 + "-" * 18, "pattern": "abc"}).encode()

_OPTIMIZED = ("-O2", "-fno-math-errno")
_NATIVE = ("gcc", "cc", "clang")
_WASM = ("clang-14", "clang")


def library(folder: Path) -> Path:
    """As a shared library."""
    return _compile(_NATIVE, folder / "count.so", "count.c", "-fPIC", "-shared", libraries=("-lm",))


def program(folder: Path) -> Path:
    """As a program that is not linked dynamically."""
    return _compile(_NATIVE, folder / "count", "program.c", "-static", libraries=("-lm",))


def module(folder: Path) -> Path:
    """As an exported function, by what the public header has for that."""
    return _compile(_WASM, folder / "count.wasm", "count.c", *_BARE)


def bare_module(folder: Path) -> Path:
    """As an exported function that imports nothing."""
    return _compile(_WASM, folder / "bare.wasm", "bare.c", *_BARE)


def command(folder: Path) -> Path:
    """As a command of WASI."""
    return _compile(_WASM, folder / "command.wasm", "program.c", "--target=wasm32-wasi")


_BARE = ("--target=wasm32", "-nostdlib", "-Wl,--no-entry")


def _compile(
    compilers: tuple[str, ...], target: Path, source: str, *how: str, libraries: tuple[str, ...] = ()
) -> Path:
    compiler = next(filter(None, map(shutil.which, compilers)), None)
    if compiler is None:
        raise Unavailable(f"{target.name} is left out: none of {', '.join(compilers)} is installed")
    invoker = importlib.util.find_spec("tempos_invoker")
    if invoker is None or invoker.origin is None:
        raise Unavailable(f"{target.name} is left out: tempos_function.h comes with tempos[invoker]")
    header = Path(invoker.origin).parent / "include"
    done = subprocess.run(
        [compiler, *_OPTIMIZED, *how, "-I", header, "-o", target, SOURCES / source, *libraries],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise Unavailable(f"{target.name} is left out: {compiler} says {one_line(done.stderr)}")
    return target
