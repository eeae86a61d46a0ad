"""The compiled parts: what there is, how each is built, and whether those in the source tree are up to date.

A part is one file of a package: a cffi extension, made for one Python, or a BPF object, good for all. An
editable install keeps them beside the Python that imports them (git ignores them); several environments
may share a tree, so a part of another Python is never touched. What a part there was built from is written
into `build/native/`, one file for each Python, by the contents of its sources: dates say nothing of a tree
that was copied, unpacked or checked out anew.

`python native_parts.py check STAMP` tells, a line each, why a set-up is not whole any more (see setup.sh);
`python native_parts.py stamp` prints what it goes by; `python native_parts.py left_out` what the last build
in the tree left out, and why, which pip shows to nobody.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent
#: The account of a build, installed beside the client library: of a wheel, and of a tree that Pythons share.
ACCOUNT = Path("tempos", "_parts.json")
ACCOUNT_IN_TREE = Path("clients", "tempos", f"_parts{sysconfig.get_config_var('EXT_SUFFIX')}.json")
#: Where the parts in the tree are written down.
RECORDS = ROOT / "build" / "native"
ABI_HEADERS = Path("fastpath", "bpf")
#: What parts are written down under that every Python shares.
_SHARED = "bpf"
#: Programs that `make` calls, and the extras that it installs.
_PROGRAMS = ("tempos", "pytest", "ruff", "mypy")
_EXTRAS = (
    "broker", "fastpath", "bench", "controller", "invoker", "invoker-wasm", "trigger", "trigger-mqtt",
    "trigger-nats", "trigger-timer", "trigger-file", "trigger-opcua", "trigger-modbus",
)  # fmt: skip
#: Reasons that are told one by one.
_TOLD = 3
_LIBBPF_HEADER = Path("/usr/include/bpf/libbpf.h")


class CannotBuild(Exception):
    """A part could not be built; says why."""


@dataclass(frozen=True, slots=True)
class Extension:
    """A cffi extension `module` out of `source`.c, whose public part is `source`.cdef.

    `abi`: whether the structs and constants of abi.h are part of it, too. `of`: the extra that it belongs
    to, where that is not called as the folder is. `also`: what else it is made of.
    """

    module: str
    folder: str
    source: str
    libraries: tuple[str, ...] = ()
    abi: bool = True
    of: str = ""
    also: tuple[Path, ...] = ()

    @property
    def extra(self) -> str:
        """The extra that needs it."""
        return self.of or self.folder

    @property
    def name(self) -> str:
        return self.module

    @property
    def tag(self) -> str:
        """The Python that it is made for."""
        return str(sysconfig.get_config_var("EXT_SUFFIX")).strip(".").removesuffix(".so")

    @property
    def home(self) -> Path:
        """Its file, relative to the folder of the packages."""
        package, name = self.module.split(".")
        return Path(package, f"{name}.{self.tag}.so")

    @property
    def sources(self) -> tuple[Path, ...]:
        """The folders whose files it is made of, and what generates C from them."""
        return (
            Path(self.folder, "native"), ABI_HEADERS, Path("fastpath", "tempos_fastpath", "abigen.py"),
            *self.also,
        )  # fmt: skip

    def build(self, target: Path) -> None:
        """Compile it to ``target``; raises :class:`CannotBuild`."""
        try:
            self._build(target)
        # Whatever a compiler, a linker, a missing header or package throws, the portable part must install.
        except Exception as error:
            raise CannotBuild(str(error) or repr(error)) from error

    def _build(self, target: Path) -> None:
        from cffi import FFI

        sys.path.insert(0, str(ROOT / "fastpath"))
        try:
            from tempos_fastpath.abigen import TYPES, declarations
        finally:
            del sys.path[0]

        native, headers = ROOT / self.folder / "native", ROOT / ABI_HEADERS
        ffi = FFI()
        ffi.cdef(declarations() if self.abi else TYPES)
        ffi.cdef((native / f"{self.source}.cdef").read_text())
        with tempfile.TemporaryDirectory(prefix="tempos-build-") as folder:
            ffi.set_source(
                self.module,
                f'#include "{self.source}.c"',
                include_dirs=[str(native), str(headers)],
                libraries=list(self.libraries),
                extra_compile_args=[
                    "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter",
                    *_anywhere(ROOT), *_anywhere(Path(folder)),
                ],
            )  # fmt: skip
            _put(Path(ffi.compile(tmpdir=folder, target=f"{self.module}.*")), target)


@dataclass(frozen=True, slots=True)
class BpfObject:
    """A BPF object inside `package`, out of one program of the folder `programs`."""

    folder: str
    package: str
    program: str
    programs: Path
    tag: str = _SHARED

    @property
    def extra(self) -> str:
        """The extra that needs it."""
        return self.folder

    @property
    def name(self) -> str:
        return f"{self.package}/{self.program}.bpf.o"

    @property
    def home(self) -> Path:
        return Path(self.package, f"{self.program}.bpf.o")

    @property
    def sources(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys((self.programs, ABI_HEADERS)))

    def build(self, target: Path) -> None:
        """Compile it to ``target``; raises :class:`CannotBuild`."""
        clang = _clang()
        if clang is None:
            raise CannotBuild("clang is not installed")
        multiarch = sysconfig.get_config_var("MULTIARCH") or ""
        with tempfile.TemporaryDirectory(prefix="tempos-build-") as folder:
            built = Path(folder, target.name)
            # -mcpu=v3: clang 14 cannot compile an atomic add whose result is used without it.
            done = subprocess.run(
                [clang, "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror",
                 *_anywhere(ROOT), "-fdebug-compilation-dir=.", *_ordered(),
                 "-I", str(ROOT / ABI_HEADERS), "-idirafter", f"/usr/include/{multiarch}",
                 "-c", str(ROOT / self.programs / f"{self.program}.bpf.c"), "-o", str(built)],
                check=False, capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode:
                raise CannotBuild(done.stderr.strip() or f"clang ended with exit code {done.returncode}")
            _put(built, target)


Part = Extension | BpfObject

EXTENSIONS = (
    Extension("tempos_broker._batch", "broker", "batch"),
    Extension("tempos_bench._traffic", "bench", "traffic"),
    Extension("tempos_bench._latency", "bench", "latency"),
    Extension("tempos_bench._stream", "bench", "stream"),
    Extension("tempos_bpf._libbpf", "fastpath", "libbpf", ("bpf",), abi=False),
    Extension("tempos_fastpath._structs", "fastpath", "structs"),
    Extension(
        "tempos_invoker._functions", "clients", "functions", ("dl", "rt"), abi=False, of="invoker",
        also=(Path("clients", "tempos_invoker", "include"),),
    ),
)  # fmt: skip
#: Folder, package, and where in the folder the programs of its objects stand.
BPF_PACKAGES = (
    ("fastpath", "tempos_fastpath", "bpf"),
    ("fastpath", "tempos_observe", "bpf/observe"),
    ("bench", "tempos_bench", "bpf"),
)


def parts() -> list[Part]:
    """Every part, for the Python that runs this."""
    objects = (
        BpfObject(folder, package, source.name.removesuffix(".bpf.c"), Path(folder, programs))
        for folder, package, programs in BPF_PACKAGES
        for source in sorted((ROOT / folder / programs).glob("*.bpf.c"))
    )
    return [*EXTENSIONS, *objects]


def account(left_out: Mapping[str, str]) -> str:
    """What came of each part, for those who will wonder (`tempos doctor`), as JSON; no reason: it is built.

    `left_out`: why, by the part's name.
    """
    return json.dumps(
        [{"name": p.name, "extra": p.extra, "why": _first_error(left_out.get(p.name, ""))} for p in parts()],
        indent=1,
    )


def _first_error(text: str) -> str:
    """The line that says it, of what a compiler printed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else "")


# In the source tree


def in_tree(part: Part) -> Path:
    """Where an editable install has a part."""
    return ROOT / part.folder / part.home


def is_current(part: Part) -> bool:
    """Whether the part in the tree is what was built there, out of the sources as they are now."""
    return in_tree(part).is_file() and _records(part.tag).get(part.name) == _record(part)


def build_in_tree(part: Part) -> None:
    """Build a part into the tree; raises :class:`CannotBuild`, and then leaves none that is out of date."""
    target = in_tree(part)
    try:
        part.build(target)
    except CannotBuild as error:
        if target.exists() and not is_current(part):
            target.unlink()
            raise CannotBuild(f"{error}; the one that was there, of other sources, is removed") from error
        raise
    records = _records(part.tag) | {part.name: _record(part)}
    RECORDS.mkdir(parents=True, exist_ok=True)
    _write(RECORDS / f"{part.tag}.json", json.dumps(records, indent=1).encode())


def _records(tag: str) -> dict[str, object]:
    try:
        found: dict[str, object] = json.loads((RECORDS / f"{tag}.json").read_text())
    except (OSError, ValueError):
        return {}
    return found


def _record(part: Part) -> dict[str, str]:
    """What a part is written down as: what went into it, what came out."""
    hashed = hashlib.sha256()
    for path in (*_files(part), Path(__file__)):
        hashed.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return {"sources": hashed.hexdigest(), "file": hashlib.sha256(in_tree(part).read_bytes()).hexdigest()}


def _files(part: Part) -> Iterator[Path]:
    for source in part.sources:
        path = ROOT / source
        yield from [path] if path.is_file() else sorted(each for each in path.iterdir() if each.is_file())


def _anywhere(folder: Path) -> tuple[str, ...]:
    """So that what is built does not tell where: the same sources give the same bytes."""
    return (f"-ffile-prefix-map={folder}=.",)


def _ordered() -> tuple[str, ...]:
    """What programs may know of the processor that they are for: x86 lets all see stores in their order."""
    return ("-DTEMPOS_STORES_IN_ORDER",) if platform.machine() in ("x86_64", "i686") else ()


def _put(built: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(target, built.read_bytes(), built.stat().st_mode)


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Whole or not at all: somebody may be loading the file, and we may be interrupted."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(mode & 0o777)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


# Whether a set-up is whole


def tools() -> dict[str, str]:
    """What parts are built with, as far as it is there: where it turns up or goes, a set-up is due."""
    compiler = str(sysconfig.get_config_var("CC") or "cc").split()[0]
    header = Path(sysconfig.get_path("include"), "Python.h")
    found = {
        "clang": _clang(),
        "compiler": shutil.which(os.environ.get("CC") or compiler),
        "Python.h": str(header) if header.exists() else None,
        "libbpf": str(_LIBBPF_HEADER) if _LIBBPF_HEADER.exists() else None,
    }
    return {name: where for name, where in found.items() if where}


def stamp() -> str:
    """What a set-up that has just ended writes down."""
    left_out = [part.name for part in parts() if not in_tree(part).exists()]
    return json.dumps({"tools": tools(), "left_out": left_out})


def lacking(written: str) -> list[str]:
    """Why a set-up that wrote down ``written`` must be done again; nothing if it is whole."""
    try:
        before = json.loads(written)
        known, left_out = dict(before["tools"]), set(before["left_out"])
    except (ValueError, KeyError, TypeError):
        return ["it was done by another version"]
    reasons = [*_installed()]
    if left_out:
        new = (name for name, where in tools().items() if known.get(name) != where)
        reasons += [f"{name} is there now, without which {len(left_out)} parts were left out" for name in new]
    wrong = (part for part in parts() if part.name not in left_out and not is_current(part))
    reasons += [
        f"{part.name} is {'out of date' if in_tree(part).exists() else 'not there'}" for part in wrong
    ]
    return reasons


def _installed() -> Iterator[str]:
    """What of the packages in this environment is missing."""
    try:
        tempos = metadata.distribution("tempos")
    except metadata.PackageNotFoundError:
        yield "tempos is not installed"
        return
    origin = json.loads(tempos.read_text("direct_url.json") or "{}").get("url")
    if origin != ROOT.as_uri():
        yield f"the tempos that is installed is that of {origin}"
    for requirement in tempos.requires or ():
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"]([^'\"]+)['\"]", requirement)
        if name == "tempos" or (extra and extra[1] not in _EXTRAS) or "python_version" in requirement:
            continue
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            yield f"{name} is not installed"
    folder = Path(sys.prefix, "bin")
    yield from (f"{folder / name} is not there" for name in _PROGRAMS if not (folder / name).exists())


def _clang() -> str | None:
    return shutil.which("clang-14") or shutil.which("clang")


def _check() -> None:
    reasons = lacking(Path(sys.argv[2]).read_text())
    print("\n".join(reasons[:_TOLD]))
    if len(reasons) > _TOLD:
        print(f"{len(reasons) - _TOLD} more")


def _left_out() -> None:
    account = ROOT / ACCOUNT_IN_TREE
    for part in json.loads(account.read_text()) if account.exists() else ():
        if part["why"]:
            print(f"{part['name']} is left out: {part['why']}")


_COMMANDS: dict[str, Callable[[], None]] = {
    "check": _check,
    "left_out": _left_out,
    "stamp": lambda: print(stamp()),
}

if __name__ == "__main__":
    _COMMANDS[sys.argv[1]]()
