"""The compiled shim over libbpf, and what every call through it needs: the check and the text.

Only the modules bpf.py and maps.py use it; no C pointer leaves those.
"""

from __future__ import annotations

from typing import Any

from tempos_fastpath.errors import BpfError, NotBuilt

try:
    from tempos_fastpath._libbpf import ffi, lib
except ImportError as error:
    raise NotBuilt(
        f"the fast path's extension was not built or cannot be loaded ({error}); "
        "install clang, libbpf-dev and a C compiler, then tempos[fastpath] again"
    ) from error

# Re-exported: this module is where the extension is loaded, or found missing.
__all__ = [
    "check", "constant", "ffi", "lib", "struct_bytes", "struct_from", "struct_new", "struct_offset",
    "struct_size", "text",
]  # fmt: skip

lib.tempos_messages_capture()


def check(code: int, what: str, log: str = "") -> int:
    """Give back ``code``; raises :class:`BpfError` with libbpf's own words if it is a negative errno."""
    if code >= 0:
        lib.tempos_messages_forget()
        return code
    messages = ffi.new("char[]", 4096)
    taken = lib.tempos_messages_take(messages, 4096)
    raise BpfError(what, -code, ffi.buffer(messages, taken)[:].decode(errors="replace"), log)


def text(raw: Any) -> str:
    """A C string as a Python one."""
    return str(ffi.string(raw).decode(errors="replace"))


def constant(name: str) -> int:
    """An enumerator of abi.h, by its C name."""
    return int(getattr(lib, name))


def struct_new(kind: str) -> Any:
    """A zeroed struct of abi.h to fill in, by its C name; :func:`struct_bytes` gives its bytes."""
    return ffi.new(f"{kind} *")


def struct_bytes(value: Any) -> bytes:
    """The bytes of a struct as the kernel's maps take them."""
    return bytes(ffi.buffer(value))


def struct_from(kind: str, value: bytes) -> Any:
    """A struct of abi.h from its bytes."""
    struct = ffi.new(f"{kind} *")
    ffi.memmove(struct, value, ffi.sizeof(kind))
    return struct


def struct_offset(kind: str, field: str) -> int:
    """Where a field of a struct of abi.h begins, bytes."""
    return int(ffi.offsetof(kind, field))


def struct_size(kind: str) -> int:
    """Bytes of a struct of abi.h."""
    return int(ffi.sizeof(kind))
