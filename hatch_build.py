"""Build hook: compiles the BPF objects and the cffi extensions where the tools for it exist.

Nothing here is needed for the client library and the portable slow path, so a missing compiler,
clang or libbpf leaves its part out with one line that says so. With TEMPOS_REQUIRE_NATIVE=1 in the
environment it fails instead.

An editable install builds into the source tree; that is why the results carry names git ignores.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
BPF_INCLUDE = ROOT / "fastpath" / "bpf"


class Extension(NamedTuple):
    """A cffi extension: `module` from `source`.c, whose public part is `source`.cdef.

    `abi`: whether the structs and constants of abi.h are part of it, too.
    """

    module: str
    folder: str
    source: str
    libraries: tuple[str, ...] = ()
    abi: bool = True


EXTENSIONS = (
    Extension("tempos_broker._batch", "broker", "batch"),
    Extension("tempos_bench._traffic", "bench", "traffic"),
    Extension("tempos_bench._latency", "bench", "latency"),
    Extension("tempos_bench._stream", "bench", "stream"),
    Extension("tempos_bpf._libbpf", "fastpath", "libbpf", ("bpf",), abi=False),
    Extension("tempos_fastpath._structs", "fastpath", "structs"),
)
BPF_SOURCES = (("fastpath", "tempos_fastpath"), ("bench", "tempos_bench"))


def build_extension(ext: Extension) -> None:
    """Compile one cffi extension in place, next to the Python that imports it."""
    from cffi import FFI

    sys.path.insert(0, str(ROOT / "fastpath"))
    from tempos_fastpath.abigen import TYPES, declarations

    native = ROOT / ext.folder / "native"
    ffi = FFI()
    ffi.cdef(declarations() if ext.abi else TYPES)
    ffi.cdef((native / f"{ext.source}.cdef").read_text())
    ffi.set_source(
        ext.module,
        f'#include "{ext.source}.c"',
        include_dirs=[str(native), str(BPF_INCLUDE)],
        depends=[str(path) for path in (*native.iterdir(), *BPF_INCLUDE.iterdir())],
        libraries=list(ext.libraries),
        extra_compile_args=["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"],
    )
    with tempfile.TemporaryDirectory(prefix="tempos-build-") as tmp:
        built = Path(ffi.compile(tmpdir=tmp, target=f"{ext.module}.*"))
        package, name = ext.module.split(".")
        target = ROOT / ext.folder / package / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
        for stale in target.parent.glob(f"{name}.*.so"):
            stale.unlink()
        shutil.copy2(built, target)


def build_bpf(folder: str, package: str) -> None:
    """Compile every BPF program of a folder to an object inside its package."""
    clang = shutil.which("clang-14") or shutil.which("clang")
    if clang is None:
        raise FileNotFoundError("clang is not installed")
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for source in sorted((ROOT / folder / "bpf").glob("*.bpf.c")):
        target = ROOT / folder / package / source.with_suffix(".o").name
        # -mcpu=v3: clang 14 cannot compile an atomic add whose result is used without it.
        subprocess.run(
            [clang, "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror",
             "-I", str(BPF_INCLUDE), "-idirafter", f"/usr/include/{multiarch}",
             "-c", str(source), "-o", str(target)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip


class NativeBuildHook(BuildHookInterface[Any]):
    """Called by hatchling before a wheel (editable or not) is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or sys.platform != "linux":
            return
        required = os.environ.get("TEMPOS_REQUIRE_NATIVE") == "1"
        steps: list[tuple[str, Callable[[], None]]] = [
            *((ext.module, partial(build_extension, ext)) for ext in EXTENSIONS),
            *((f"{package}/*.bpf.o", partial(build_bpf, folder, package)) for folder, package in BPF_SOURCES),
        ]
        built = 0
        for name, step in steps:
            try:
                step()
                built += 1
            # Whatever a compiler or a missing header throws, the portable part must install.
            except Exception as error:
                detail = getattr(error, "stderr", None) or error
                if required:
                    raise RuntimeError(f"cannot build {name}: {detail}") from error
                self.app.display_warning(f"tempos: {name} is left out: {detail}")
        if built:
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
