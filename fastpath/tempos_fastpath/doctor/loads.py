"""Every program of every object, loaded as a broker would: what the kernel's verifier takes, and what not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tempos import DATA_PORT, Unavailable
from tempos.doctor import Tried
from tempos.errors import one_line
from tempos_bpf.errors import ProgramRefused
from tempos_bpf.objects import BpfObject
from tempos_fastpath import beside, clone, drops, loading, selector
from tempos_fastpath.layout import encode_settings
from tempos_fastpath.network import trial
from tempos_fastpath.network.gates import Gate

#: Addresses to listen on: to the verifier they are constants.
_LISTEN = ("10.77.1.1", "10.77.2.1")
#: So are the MAC that frames are for, and sources that are the kernel's to judge, as every other is here.
_GATE = Gate(("02:00:00:00:00:01",), _LISTEN, asks=1)
_PLAIN: Mapping[str, Mapping[str, bytes]] = {"": {}}
#: What the XDP program knows when it is loaded, by mode.
_MODES = {
    mode: {"settings": encode_settings(DATA_PORT, _LISTEN, _GATE, generic=mode == "generic")}
    for mode in ("native", "generic")
}
#: Each object's check, and the settings to load it with, by what to call them.
OBJECTS: Mapping[Path, tuple[str, Mapping[str, Mapping[str, bytes]]]] = {
    loading.OBJECT: ("TD111", _MODES),
    beside.OBJECT: ("TD116", _PLAIN),
    clone.OBJECT: ("TD113", {"": _MODES["native"]}),
    drops.OBJECT: ("TD114", _PLAIN),
    selector.OBJECT: ("TD115", _PLAIN),
    trial.OBJECT: ("TD117", _PLAIN),
}
_OTHER, _LATENCY = "TD119", "TD112"
#: Programs that are loaded only where latency is to be measured.
_TIMED = {loading.TIMED, clone.TIMED}


def gather() -> Iterator[Tried]:
    """Load everything that the build made for the fast path."""
    for path in sorted({*OBJECTS, *loading.OBJECT.parent.glob("*.bpf.o")}):
        check, variants = OBJECTS.get(path, (_OTHER, _PLAIN))
        for mode, settings in variants.items():
            tried, left_out = _load(path, check, mode, settings)
            yield tried
            for program in left_out:
                also = _LATENCY if program in _TIMED else check
                yield _load(path, also, mode, settings, program)[0]


def refused_modes(tried: Tried) -> set[str]:
    """The mode that cannot be had if this is a program that was refused, the fast path's own."""
    if tried.check != "TD111" or tried.had:
        return set()
    return {mode for mode in _MODES if tried.subject.endswith(mode)}


def _load(
    path: Path, check: str, mode: str, settings: Mapping[str, bytes], program: str = ""
) -> tuple[Tried, tuple[str, ...]]:
    """What came of it, and the programs of the object that are loaded only on request."""
    subject = " ".join(filter(None, (path.name, program, mode)))
    try:
        with BpfObject(path, settings, also=[program] if program else []) as loaded:
            if not loaded.programs:
                return Tried(
                    check, True, "loaded; its programs are loaded on request", subject
                ), loaded.left_out
            instructions = sum(each.info().verified_insns for each in loaded.programs)
            cause = f"loaded, {instructions:,} instructions verified"
            return Tried(check, True, cause, subject), loaded.left_out
    except ProgramRefused as error:
        return Tried(check, False, one_line(error), subject, error.log), ()
    except Unavailable as error:
        return Tried(check, False, one_line(error), subject), ()
