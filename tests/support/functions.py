"""Functions that tests have compiled: C as a library, as a program, as a WebAssembly module."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tempos_bench.functions import built
from tempos_invoker.headers import FOLDER

SOURCES = Path(__file__).resolve().parents[1] / "functions"
#: The function that is measured, too, in several languages.
MEASURED = built.SOURCES
_WASI = Path("/usr/lib/wasm32-wasi/libc.a")


def library(folder: Path, name: str, *more: str, source: Path | None = None) -> Path:
    """``name``.c as a shared library."""
    target = folder / f"{name}.so"
    _run([compiler(), "-O2", "-fPIC", "-shared", "-I", str(FOLDER), "-o", str(target),
          str(source or _source(name)), *more, "-lm"])  # fmt: skip
    return target


def program(folder: Path, name: str, *more: str, source: Path | None = None) -> Path:
    """``name``.c as a program."""
    target = folder / name
    _run([compiler(), "-O2", "-o", str(target), str(source or SOURCES / f"{name}.c"), *more])
    return target


def module(folder: Path, name: str, *more: str, source: Path | None = None) -> Path:
    """``name``.c, which needs no C library, as a module that exports functions."""
    target = folder / f"{name}.wasm"
    _run([wasm_compiler(), "--target=wasm32", "-O2", "-fno-math-errno", "-nostdlib", "-Wl,--no-entry", "-I",
          str(FOLDER), "-o", str(target), str(source or _source(name)), *more])  # fmt: skip
    return target


def command(folder: Path, name: str) -> Path:
    """``name``.c as a command of WASI."""
    if not _WASI.exists():
        pytest.skip("wasi-libc is not installed (apt-get install wasi-libc libclang-rt-14-dev-wasm32)")
    target = folder / f"{name}.wasm"
    _run([wasm_compiler(), "--target=wasm32-wasi", "-O2", "-o", str(target), str(SOURCES / f"{name}.c")])
    return target


def _source(name: str) -> Path:
    own = SOURCES / f"{name}.c"
    return own if own.exists() else MEASURED / own.name


def compiler() -> str:
    return _found(("gcc", "cc", "clang-14", "clang"), "a C compiler")


def wasm_compiler() -> str:
    _found(("wasm-ld-14", "wasm-ld"), "lld (apt-get install lld-14)")
    return _found(("clang-14", "clang"), "clang")


def _found(names: Sequence[str], what: str) -> str:
    for name in names:
        if where := shutil.which(name):
            return where
    pytest.skip(f"{what} is not installed")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr


def python(code: str) -> str:
    """What a Python of its own prints that runs this."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout
