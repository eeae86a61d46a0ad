"""The structs and constants of abi.h as the compiler lays them out, and what C computes on them.

No other module sees the extension; struct values that leave here are filled in by layout.py alone.
"""

from __future__ import annotations

from typing import Any

from tempos_bpf.errors import NotBuilt

try:
    from tempos_fastpath._structs import ffi, lib
except ImportError as error:
    raise NotBuilt(
        f"the fast path's extension was not built or cannot be loaded ({error}); "
        "install a C compiler, then tempos[fastpath] again"
    ) from error

# Re-exported: this module is where the extension is loaded, or found missing.
__all__ = [
    "constant", "ffi", "lib", "struct_bytes", "struct_from", "struct_new", "struct_offset", "struct_size",
]  # fmt: skip


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
