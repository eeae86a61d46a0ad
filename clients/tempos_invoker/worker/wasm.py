"""Functions as WebAssembly modules, each event in a fresh instance, by Wasmtime's C interface.

Two forms: ``entry`` names an exported function (how it is called and what it may import stands in
`tempos_function.h`), or is empty: then the module is a command of WASI (preview 1), which reads the event on
standard input and writes its result on standard output. It has no files and no network but the folders that
``grants`` names, each ``read:/folder`` or ``write:/folder``, and ``=/as/seen/inside`` behind it.

The engine is the shared library inside the package `wasmtime`; nothing of that package's Python is used.
A module is compiled once and kept in the cache. Its memory is bounded (64 MiB where nothing is said), what
it asks for beyond that it does not get; one that is not done by its deadline is ended, with its worker where
it waits in a call into the host.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import resource
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from tempos_invoker.worker import wasm_module
from tempos_invoker.worker.native import Native
from tempos_invoker.worker.unfit import Unfit
from tempos_invoker.worker.wasm_cache import Cache

#: The versions whose C interface is the one that wasmtime_api.h describes.
MAJOR = 50
DEFAULT_MEMORY = 64 << 20
LARGEST_MEMORY = 2 << 30
#: So much of a memory is reset in place from event to event; more is given back to the kernel and faulted in.
_KEPT = 16 << 20
_SPARE_ELEMENTS = 1024

WASI = "wasi_snapshot_preview1"
OURS = "tempos"
_OFFERED = ("event", "text", "told", "log")
_ALLOC = "tempos_alloc"
_SIGNATURES = {_ALLOC: "(i32) -> (i32)", "": "(i32, i32) -> (i64)"}
_MIB = 1 << 20


class WasmFunction(Native):
    """A module that is compiled and bound. ``spec``: the worker's specification; raises :class:`Unfit`."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__(float(spec["timeout"]), int(spec.get("output") or 0))
        library, version = _engine()
        code = Path(spec.get("code") or "")
        content = _content(code)
        entry = str(spec.get("entry") or "")
        memory = _memory(int(spec.get("memory") or 0))
        module = _fitting(code.name, content, entry, memory)
        scarce = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
        settings = self.keep(self.ffi.new("struct tempos_wasm_settings *"))
        settings.library = self.text(library)
        settings.entry = self.text(entry)
        settings.wasi = any(name == WASI for name, _, _ in module.imports)
        settings.initialize = "_initialize" in module.exports and bool(entry)
        settings.scarce = scarce
        settings.memory = memory
        settings.keep = min(memory, _KEPT)
        settings.tables = max(len(module.tables), 1)
        settings.table_elements = max([*module.tables, 0]) + _SPARE_ELEMENTS
        self._give(settings, spec)
        self.have(self.lib.tempos_worker_wasm, settings)
        self._load(content, f"{version}-{platform.machine()}-{'scarce' if scarce else 'plain'}", spec)
        try:
            self.have(self.lib.tempos_wasm_bind)
        except Unfit as error:
            raise Unfit(f"{code.name} cannot be instantiated: {error}") from None

    def _give(self, settings: Any, spec: dict[str, Any]) -> None:
        """What the module is told and may see."""
        arguments = [spec.get("function") or "function", *map(str, spec.get("args") or ())]
        env = {str(name): str(value) for name, value in (spec.get("env") or {}).items()}
        folders = [_granted(grant) for grant in spec.get("grants") or ()]
        settings.args, settings.argv = len(arguments), self.texts(arguments)
        settings.env = len(env)
        settings.env_names, settings.env_values = self.texts(env), self.texts(env.values())
        settings.folders = len(folders)
        settings.hosts = self.texts(host for host, _, _ in folders)
        settings.guests = self.texts(guest for _, guest, _ in folders)
        settings.writable = self.keep(self.ffi.new("int[]", [int(writes) for _, _, writes in folders] or [0]))

    def _load(self, content: bytes, setting: str, spec: dict[str, Any]) -> None:
        """Take the compiled module out of the cache, or compile it."""
        cache = Cache(spec.get("cache") or "")
        key = f"{hashlib.sha256(content).hexdigest()}-{setting}"
        kept = cache.get(key)
        if kept is not None:
            try:
                self.have(self.lib.tempos_wasm_module, kept, len(kept), 1)
                return
            except Unfit as error:
                print(f"the compiled module in the cache is of no use: {error}", file=sys.stderr)
        try:
            self.have(self.lib.tempos_wasm_module, content, len(content), 0)
        except Unfit as error:
            raise Unfit(f"{Path(spec['code']).name} cannot be compiled: {error}") from None
        length = self.lib.tempos_wasm_compiled(self.worker, self.ffi.NULL, 0)
        if length:
            compiled = self.ffi.new("uint8_t[]", length)
            self.lib.tempos_wasm_compiled(self.worker, compiled, length)
            cache.put(key, bytes(self.ffi.buffer(compiled)))
        if cache.remark:
            print(f"the module is compiled anew each time: {cache.remark}", file=sys.stderr)


def _engine() -> tuple[Path, str]:
    """The engine's library and version."""
    how = "install tempos[invoker-wasm]"
    found = importlib.util.find_spec("wasmtime")
    if found is None or not found.submodule_search_locations:
        raise Unfit(f"mode wasm needs the package wasmtime: {how}")
    version = metadata.version("wasmtime")
    if version.partition(".")[0] != str(MAJOR):
        raise Unfit(f"the package wasmtime is of version {version}, {MAJOR} is what can be used: {how}")
    home = Path(found.submodule_search_locations[0], f"linux-{platform.machine()}", "_libwasmtime.so")
    if not home.exists():
        raise Unfit(f"the package wasmtime has no engine for {platform.machine()} ({home})")
    return home, version


def _content(code: Path) -> bytes:
    if not code.name:
        raise Unfit("a function of mode wasm needs its module as code")
    try:
        return code.read_bytes()
    except OSError as error:
        raise Unfit(f"the module {code} cannot be read: {error.strerror}") from error


def _memory(asked: int) -> int:
    """What is allowed, in whole pages."""
    if asked > LARGEST_MEMORY:
        raise Unfit(f"a module can have {LARGEST_MEMORY} bytes of memory, not {asked}")
    allowed = asked or DEFAULT_MEMORY
    if allowed < wasm_module.PAGE:
        raise Unfit(f"memory goes by pages of {wasm_module.PAGE} bytes; {allowed} bytes are less than one")
    return allowed // wasm_module.PAGE * wasm_module.PAGE


def _fitting(name: str, content: bytes, entry: str, memory: int) -> wasm_module.Module:
    """What a module says of itself; raises :class:`Unfit` where that cannot be used here."""
    try:
        module = wasm_module.read(content)
    except wasm_module.NoModule as error:
        raise Unfit(f"{name} is no WebAssembly module: {error}") from None
    unknown = sorted(
        {
            f"{home}.{item}"
            for home, item, kind in module.imports
            if kind != wasm_module.FUNCTION or not (home == WASI or (home == OURS and item in _OFFERED))
        }
    )
    if unknown:
        offered = f"{WASI} and {', '.join(f'{OURS}.{item}' for item in _OFFERED)}"
        raise Unfit(f"{name} imports {_some(unknown)}, which nobody provides; there is {offered}")
    if module.memories > 1:
        raise Unfit(f"{name} has {module.memories} memories; one is what a module can have here")
    least = (module.memory or (0, None))[0] * wasm_module.PAGE
    if least > memory:
        raise Unfit(f"{name} wants {least / _MIB:g} MiB of memory, {memory / _MIB:g} MiB are allowed")
    functions = [key for key, (kind, _) in module.exports.items() if kind == wasm_module.FUNCTION]
    there = f"; it exports {_some(sorted(functions)) or 'no function'}"
    if not entry:
        if "_start" not in functions:
            raise Unfit(f"{name} is no command of WASI, which has _start{there}: name one as entry")
        return module
    for export, signature in ((entry, _SIGNATURES[""]), (_ALLOC, _SIGNATURES[_ALLOC])):
        if export not in functions:
            raise Unfit(f"{name} exports no function {export}{there}")
        if module.exports[export][1] != signature:
            raise Unfit(f"{export} of {name} is {module.exports[export][1]}, and has to be {signature}")
    if module.exports.get("memory", (None, ""))[0] != wasm_module.MEMORY:
        raise Unfit(f"{name} does not export its memory as `memory`")
    return module


def _granted(grant: object) -> tuple[str, str, bool]:
    """A folder outside, as what it is seen inside, and whether it may be written to."""
    kind, _, folders = str(grant).partition(":")
    host, _, guest = folders.partition("=")
    if kind not in ("read", "write") or not host.startswith("/") or (guest and not guest.startswith("/")):
        raise Unfit(f"grants: {grant!r} is none; allowed: read:/folder or write:/folder, each with =/inside")
    if not Path(host).is_dir():
        raise Unfit(f"grants: {host} is no folder")
    return host, guest or host, kind == "write"


def _some(names: Iterable[str]) -> str:
    few = list(names)
    return ", ".join(few[:6]) + (f" and {len(few) - 6} more" if len(few) > 6 else "")
