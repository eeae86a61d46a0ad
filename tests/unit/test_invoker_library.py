"""Functions in shared libraries: each way they end, and what is said of a library that cannot be used."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from support import functions
from support.workers import WorkerProcess

from tempos_invoker.worker import elf
from tempos_invoker.worker.dlf import LibraryFunction
from tempos_invoker.worker.native import compiled
from tempos_invoker.worker.unfit import Unfit
from tempos_invoker.workers import frames
from tempos_invoker.workers.frames import Call, Condition

COUNT = json.dumps({"message": "xabcabc--abc", "pattern": "abc"}).encode()
#: 0², √1, 2²
COUNTED = struct.pack("<d", 0 + 1 + 4)
WHO = {"topic": "plant/press", "workflow": "w", "step": "s"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("libraries")
    return {name: functions.library(folder, name) for name in ("count", "hostile")}


def why(path: Path | str, **more: object) -> str:
    with pytest.raises(Unfit) as told:
        LibraryFunction({"code": str(path), "timeout": 1.0, **more})
    return str(told.value)


def test_records_are_those_of_python() -> None:
    ffi, lib = compiled()
    for name, layout in (("call", frames.CALL), ("answer", frames.ANSWER)):
        kind = ffi.typeof(f"struct tempos_{name}")
        codes = {(4,): "I", (8,): "Q", (2,): "H"}
        fields = "".join(codes[(ffi.sizeof(field.type),)] for _, field in kind.fields)
        offsets = [field.offset for _, field in kind.fields]
        assert (layout.format, layout.size) == ("<" + fields, ffi.sizeof(kind))
        assert offsets == [struct.calcsize("<" + fields[:n]) for n in range(len(fields))]
    assert lib.TEMPOS_MESSAGE == frames.MESSAGE
    assert lib.TEMPOS_CALL_PLACE == frames.PLACE
    assert (lib.TEMPOS_ANSWER_NOTHING, lib.TEMPOS_ANSWER_HELD) == (frames.NOTHING, frames.HELD)
    words = ("SUCCEEDED", "ERROR", "SAID_NO", "TOO_LARGE", "TIMED_OUT", "CRASHED")
    assert [getattr(lib, f"TEMPOS_{word}") for word in words] == [*Condition]


@pytest.mark.parametrize("load", ["keep", "call"])
def test_a_library_is_called_and_told_of_its_event(built: dict[str, Path], load: str) -> None:
    with WorkerProcess(mode="dlf", code=str(built["hostile"]), load=load) as worker:
        assert worker.hello["ok"], worker.hello
        told = json.dumps(WHO).encode()
        ask = Call(2, b"who", publisher=7, sequence=9, sent_ns=11, attempt=2, place=3)
        # In one message with the events, a place is told before it is used.
        worker.send(Call(0, b"echo 1"), Call(0, told, place=3, flags=frames.PLACE), ask, Call(3, b"echo 2"))
        answers = [worker.receive()[0] for _ in range(3)]
        assert [answer.output for answer in answers] == [
            b"echo 1",
            b"plant/press w s 7 9 2 11 in time",
            b"echo 2",
        ]
        assert all(answer.started_ns <= answer.ended_ns for answer in answers)
        # Opened for each event, nothing of its own is left of the one before.
        kept = [worker.ask(b"calls").output for _ in range(2)]
        assert kept == ([b"4", b"5"] if load == "keep" else [b"1", b"1"])
    assert worker.code == 0


def test_every_way_a_library_answers(built: dict[str, Path]) -> None:
    with WorkerProcess(mode="dlf", code=str(built["hostile"]), output=100) as worker:
        for deed, condition, text in (
            (b"refuse", Condition.REFUSED, b"not this one"),
            (b"fail", Condition.ERROR, b"code 7: seven is not enough"),
            (b"large", Condition.TOO_LARGE, b"the output has 101 bytes, 100 are allowed"),
            (b"echo " + b"x" * 95, Condition.SUCCEEDED, b"echo " + b"x" * 95),
        ):
            answer = worker.ask(deed)
            assert (answer.condition, answer.output) == (condition, text)
        assert worker.ask(b"nothing").flags == frames.NOTHING
        assert worker.ask(b"other").flags == 0, "an empty result is one"
    with WorkerProcess(mode="dlf", code=str(built["hostile"])) as worker:
        body = b"echo " + b"x" * (frames.LARGEST_BODY - 5)
        assert worker.ask(body).output == body


@pytest.mark.parametrize(("deed", "code"), [(b"crash", -11), (b"exit", 0)])
def test_a_crash_ends_its_worker_behind_what_was_answered(
    built: dict[str, Path], deed: bytes, code: int
) -> None:
    with WorkerProcess(mode="dlf", code=str(built["hostile"])) as worker:
        worker.send(Call(1, b"echo"), Call(2, deed), Call(3, b"echo"))
        assert worker.receive()[0].ticket == 1
        assert worker.sock.recv(1) == b"", "the parent knows which one it was"
    assert worker.code == code


def test_the_function_of_the_source(built: dict[str, Path]) -> None:
    with WorkerProcess(mode="dlf", code=str(built["count"])) as worker:
        assert worker.ask(COUNT).output == COUNTED
        assert worker.ask(b"{}").condition == Condition.REFUSED


def test_warming_up_calls_it_or_says_why_not(built: dict[str, Path]) -> None:
    function = LibraryFunction({"code": str(built["hostile"]), "timeout": 1.0})
    function.warm(b"echo")
    assert function.once(b"calls").output == b"2"
    with pytest.raises(Unfit, match="the warm-up ended with error: code 7: seven"):
        function.warm(b"fail")


def test_what_cannot_be_a_library_is_told_in_words(tmp_path: Path) -> None:
    assert "needs its library as code" in why("")
    assert why(tmp_path / "gone.so").endswith("cannot be read: No such file or directory")
    text = tmp_path / "text.so"
    text.write_text("int main() {}")
    assert why(text) == "text.so is no shared library (no ELF file)"
    assert "grants are for mode wasm" in why(text, grants=["read:/tmp"])
    source = tmp_path / "f.c"
    source.write_text("int other(void) { return 0; }")
    assert "f.so has no tempos_function: include" in why(functions.library(tmp_path, "f", source=source))
    source.write_text("extern int away(void); int tempos_function(void *e, void *r) { return away(); }")
    unresolved = functions.library(tmp_path, "f", source=source)
    assert "f.so needs away, which no library gives it" in why(unresolved)
    bare = unresolved.read_bytes()
    other = tmp_path / "other.so"
    other.write_bytes(bare[:18] + bytes([40, 0]) + bare[20:])
    assert "other.so is made for ARM, 64 bits, little-endian, and this machine is" in why(other)
    other.write_bytes(bare[:16] + bytes([1, 0]) + bare[18:])
    assert "an object file or a program" in why(other)
    other.write_bytes(bare)
    whole = elf.read(other)
    assert whole is not None
    other.write_bytes(bare[: whole.length - 1])
    assert why(other) == f"other.so is cut off: it has {whole.length - 1} bytes of {whole.length}"
    other.write_bytes(bare[:64] + bytes(len(bare) - 64))
    assert why(other).startswith("other.so cannot be loaded: ")
    needed = tmp_path / "libneeded.so"
    needed.write_bytes(functions.library(tmp_path, "n", source=source).read_bytes())
    linked = (f"-L{tmp_path}", "-Wl,--no-as-needed", "-lneeded")
    needs = functions.library(tmp_path, "needs", *linked, source=source)
    needed.unlink()
    assert "needs.so needs the library libneeded.so, which is not installed here" in why(needs)


def test_a_worker_says_no_at_hello(tmp_path: Path) -> None:
    with WorkerProcess(mode="dlf", code=str(tmp_path / "gone.so")) as worker:
        assert worker.hello["ok"] is False
        assert "gone.so cannot be read" in worker.hello["text"]
    assert worker.code == 3
