"""The function that ways to run functions are measured with: the same result in each, and what is counted."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from support import functions

from tempos_bench.functions import built, engine

#: The sum over the 20 times that the pattern occurs.
EXPECTED = struct.pack("<d", sum(i**0.5 if i % 2 else i**2 for i in range(20)))
SPEC = {"timeout": 5.0, "function": "count"}


def test_it_gives_the_same_however_it_is_run(tmp_path: Path) -> None:
    assert len(built.EVENT) == 351
    assert functions.python(
        "from tempos_bench.functions import engine, built\n"
        f"print(engine._python_function({str(built.SOURCES / 'count.py')!r})(built.EVENT) == {EXPECTED!r})"
    ) == "True\n"  # fmt: skip
    program = built.program(tmp_path)
    assert subprocess.run([program], input=built.EVENT, capture_output=True).stdout == EXPECTED
    library = {**SPEC, "mode": "dlf", "code": str(built.library(tmp_path))}
    calls = {"dlf": engine.inside({"spec": library})}
    pytest.importorskip("wasmtime")
    functions.wasm_compiler()
    for made in (built.module, built.bare_module):
        spec = {**SPEC, "mode": "wasm", "code": str(made(tmp_path)), "entry": "tempos_call"}
        calls[made.__name__] = engine.inside({"spec": spec})
    for call in calls.values():
        done = engine.measure(call, 5, 0, 0)
        assert [len(done[kind]) for kind in ("start", "total", "late")] == [5, 5, 5]
    assert engine.binding({"code": str(tmp_path / "bare.wasm")})(built.EVENT)


def test_turns_that_pass_are_missed() -> None:
    slow = iter([0, 0, 35_000_000, 0, 0])

    def call(_: bytes) -> engine.Times:
        began = engine.time.monotonic_ns()
        until = began + next(slow, 0)
        while engine.time.monotonic_ns() < until:
            pass
        return began, began, engine.time.monotonic_ns()

    done = engine.measure(call, 5, 100, 0)
    assert len(done["total"]) == 5
    assert done["missed"] >= 2
    assert done["late"][2] >= 35_000_000
