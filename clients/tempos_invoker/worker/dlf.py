"""Functions in shared libraries (`tempos_function.h`), called in the worker's own process.

With ``load`` = ``keep`` a library is opened once, with ``call`` for each event. The second gives a fresh
library only as far as dlclose(3) does: what it depends on may stay, and so may it itself (C++ with unique
symbols, destructors of threads). What a library lacks is found out before the first event, in words.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tempos_invoker.worker import elf
from tempos_invoker.worker.native import Native
from tempos_invoker.worker.unfit import Unfit

#: What a library has to export.
ENTRY = "tempos_function"

_UNRESOLVED = re.compile(r"undefined symbol: (\S+)")
_MISSING = re.compile(r"(\S+): cannot open shared object file")


class LibraryFunction(Native):
    """A library that is loaded. ``spec``: the worker's specification; raises :class:`Unfit`."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__(float(spec["timeout"]), int(spec.get("output") or 0))
        if spec.get("grants"):
            raise Unfit("a library has the rights of its process; grants are for mode wasm")
        self._path = Path(spec.get("code") or "")
        _look_at(self._path)
        keep = spec.get("load") != "call"
        try:
            self.have(self.lib.tempos_worker_dlf, self.text(self._path), keep)
        except Unfit as error:
            raise Unfit(_in_words(self._path, str(error))) from None


def _look_at(path: Path) -> None:
    """Raise :class:`Unfit` for what cannot be a library of this machine."""
    if not path.name:
        raise Unfit("a function of mode dlf needs its library as code")
    try:
        found = elf.read(path)
    except OSError as error:
        raise Unfit(f"the library {path} cannot be read: {error.strerror}") from error
    if found is None:
        raise Unfit(f"{path.name} is no shared library (no ELF file)")
    elf.must_fit(path, found)
    if found.kind != elf.SHARED:
        raise Unfit(f"{path.name} is an object file or a program, no shared library: link it with -shared")


def _in_words(path: Path, why: str) -> str:
    """What the loader said, with what to do about it."""
    unresolved, missing = _UNRESOLVED.search(why), _MISSING.search(why)
    if unresolved and unresolved[1] == ENTRY:
        return f"{path.name} has no {ENTRY}: include tempos_function.h and define TEMPOS_FUNCTION"
    if unresolved:
        return f"{path.name} needs {unresolved[1]}, which no library gives it: link it with the one that does"
    if missing and missing[1] != str(path):
        return f"{path.name} needs the library {missing[1]}, which is not installed here"
    return f"{path.name} cannot be loaded: {why}"
