"""The compiled shim over libbpf, and what every call through it needs: the check and the text.

Only modules of this package use it; no C pointer leaves them.
"""

from __future__ import annotations

from typing import Any

from tempos_bpf.errors import BpfError, NotBuilt

try:
    from tempos_bpf._libbpf import ffi, lib
except ImportError as error:
    raise NotBuilt(
        f"the extension over libbpf was not built or cannot be loaded ({error}); "
        "install libbpf-dev and a C compiler, then tempos[fastpath] again"
    ) from error

# Re-exported: this module is where the extension is loaded, or found missing.
__all__ = ["check", "ffi", "lib", "text", "words"]

lib.tempos_messages_capture()


def check(code: int, what: str) -> int:
    """Give back ``code``; raises :class:`BpfError` with libbpf's own words if it is a negative errno."""
    if code >= 0:
        lib.tempos_messages_forget()
        return code
    raise BpfError(what, -code, words())


def words() -> str:
    """What libbpf warned of since it was last asked, on this thread."""
    messages = ffi.new("char[]", 4096)
    taken = lib.tempos_messages_take(messages, 4096)
    return str(ffi.buffer(messages, taken)[:].decode(errors="replace"))


def text(raw: Any) -> str:
    """A C string as a Python one."""
    return str(ffi.string(raw).decode(errors="replace"))
