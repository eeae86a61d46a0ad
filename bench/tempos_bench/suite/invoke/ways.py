"""The source's function in every way to run it (its 2.3.2): start, run and total; alone, and 2 SQ with 4 BQ.

Its Algorithm 1 takes an event apart, counts a pattern in a text, and adds up powers and square roots. Each
way stands in a process of its own, with its caller on one core, and gets its rounds in turn with the others:
paced, as events come, and without a pause. A call that comes alone finds cold caches and costs several times
what one costs in a loop; so ratios are of paced calls unless they say otherwise. A call's time is from when
its engine takes it up to when the result is there; a worker's and a pool's is the whole way there and back.

Side by side: two callers under real time, each on a core of its own and due at fixed times, and four
ordinary ones that never pause. How late is told from when a call was due to its end.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from tempos import TemposError, Unavailable
from tempos.errors import one_line
from tempos_bench.functions import built
from tempos_bench.measure import samples
from tempos_bench.measure.stats import percentile, ratios, summarize
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, interleave, turned
from tempos_bench.runs.run import Run

_SPEC = {
    "function": "count", "class": "BQ", "index": 0, "code": "", "entry": "", "args": [], "env": {}, "cwd": "",
    "user": "", "timeout": 20.0, "load": "keep", "memory": 0, "output": 0, "ahead": 0, "grants": [],
    "warm": None, "version": "", "cache": "",
}  # fmt: skip
_PYTHON = "Python in process"
_SPAWN = "program, posix_spawn"
#: What takes milliseconds a call: so few of them a round, and not paced.
_SLOW = ("Python program", "Node program")
#: Seconds until any of them must have said that it is ready, or have answered.
_LIMIT = 120
#: Above what an invoker has that happens to run beside it.
_FIFO = 60


@dataclass(frozen=True, slots=True)
class Parameters:
    """A round has ``paced`` calls at ``rate``/s and ``tight`` ones without a pause; ``slow`` of slow ones.

    Side by side: ``sq_rate``/s for each SQ caller (``sq_rate_programs`` where each call is a process), for
    ``seconds``.
    """

    rounds: int
    paced: int
    rate: float
    tight: int
    slow: int
    sq_rate: float
    sq_rate_programs: float
    seconds: float


class _Engine:
    """One way, in its process."""

    def __init__(self, way: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tempos_bench.functions.engine", json.dumps(way)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> _Engine:
        try:
            self.told = self.answer()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.communicate(timeout=_LIMIT if error is None else 1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def ask(self, **what: float) -> None:
        assert self._process.stdin is not None, "a pipe"
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "a pipe"
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None, "a pipe"
            said = self._process.stderr.read().strip().rsplit("\n", 1)[-1]
            raise TemposError(f"a way to run functions ended: {one_line(said) or 'nothing was said'}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def measure(self, **what: float) -> dict[str, Any]:
        self.ask(**what)
        return self.answer()


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    progress.note("the source does not tell on which processors its times were taken")
    with tempfile.TemporaryDirectory(prefix="tempos-invoke-") as folder:
        ways = _ways(Path(folder), progress)
        progress.plan(p.rounds * (len(ways) + 6))
        return [*_alone(p, ways, progress), *_side_by_side(p, ways, progress)]


def _ways(folder: Path, progress: Run) -> dict[str, dict[str, Any]]:
    """What is measured, by name; what cannot be had here is noted."""
    script = str(built.SOURCES / "count.py")

    def spec(mode: str, **more: Any) -> dict[str, Any]:
        return {"kind": "inside", "spec": {**_SPEC, "mode": mode, **more}}

    def library() -> dict[str, dict[str, Any]]:
        code = str(built.library(folder))
        return {"DLF, kept": spec("dlf", code=code), "DLF, each call": spec("dlf", code=code, load="call")}

    def modules() -> dict[str, dict[str, Any]]:
        exported, bare = str(built.module(folder)), str(built.bare_module(folder))
        return {
            "WASM, exported": spec("wasm", code=exported, entry="tempos_call"),
            "WASM, no imports": spec("wasm", code=bare, entry="tempos_call"),
            "WASM, wasmtime-py": {"kind": "binding", "code": bare},
        }

    def command() -> dict[str, dict[str, Any]]:
        return {"WASM, WASI command": spec("wasm", code=str(built.command(folder)))}

    def programs() -> dict[str, dict[str, Any]]:
        code = str(built.program(folder))
        return {
            _SPAWN: {"kind": "posix_spawn", "code": code},
            "program": spec("spawn", code=code),
            "program, ahead": spec("spawn", code=code, ahead=2),
        }

    ways: dict[str, dict[str, Any]] = {_PYTHON: {"kind": "python", "code": script}}
    for made in (library, modules, command, programs):
        try:
            ways |= made()
        except Unavailable as error:
            progress.note(str(error))
    interpreted = {"Python program": (sys.executable, script)}
    if node := shutil.which("node"):
        interpreted["Node program"] = (node, str(built.SOURCES / "count.mjs"))
    else:
        progress.note("Node is left out: it is not installed")
    for name, arguments in interpreted.items():
        ways[name] = spec("spawn", args=list(arguments))
        ways[f"{name}, ahead"] = spec("spawn", args=list(arguments), ahead=2)
    core, other = cores()
    python = {**_SPEC, "mode": "python", "code": script, "entry": "count:count"}
    for where, cpu in (("one core", core), ("two cores", other)):
        ways[f"Python worker, {where}"] = {"kind": "worker", "spec": python, "worker_cpu": cpu}
        ways[f"ProcessPoolExecutor, {where}"] = {"kind": "pool", "code": script, "worker_cpu": cpu}
        if "DLF, kept" in ways:
            of = ways["DLF, kept"]["spec"]
            ways[f"DLF worker, {where}"] = {"kind": "worker", "spec": of, "worker_cpu": cpu}
    return {name: {**way, "cpus": [core]} for name, way in ways.items()}


def _alone(p: Parameters, ways: dict[str, dict[str, Any]], progress: Run) -> list[Figure]:
    """Each way by itself."""
    with ExitStack() as stack:
        engines = {}
        for name, way in ways.items():
            progress(f"starting: {name}")
            engines[name] = stack.enter_context(_Engine(way))

        def measured(name: str) -> dict[str, float]:
            engine = engines[name]
            if name.startswith(_SLOW) and not name.endswith("ahead"):
                paced = tight = engine.measure(count=p.slow)
            elif name.startswith(_SLOW):
                # As fast as they come a new one is not ready yet: that would measure the cold start.
                paced = tight = engine.measure(count=p.slow, rate=4)
            else:
                paced = engine.measure(count=p.paced, rate=p.rate if "program" not in name else p.rate / 5)
                tight = engine.measure(count=p.tight if "program" not in name else p.paced)
            return {
                "start": percentile(paced["start"], 50) / 1e3,
                "total": percentile(paced["total"], 50) / 1e3,
                "p99": percentile(paced["total"], 99) / 1e3,
                "tight": percentile(tight["total"], 50) / 1e3,
                "tight p99": percentile(tight["total"], 99) / 1e3,
            }

        found = interleave(p.rounds, {name: partial(measured, name) for name in ways}, progress)
        cold = {name: engine.told for name, engine in engines.items() if "hello_ns" in engine.told}
    values = {
        name: {key: [each[key] for each in rounds] for key in rounds[0]} for name, rounds in found.items()
    }
    kinds = ("start", "run", "total", "p99", "tight", "tight p99")
    for columns in values.values():
        columns["run"] = [a - b for a, b in zip(columns["total"], columns["start"], strict=True)]
    progress.add_table(
        "paced and tight, us (medians of rounds)",
        ["way", "start p50", "run p50", "total p50", "total p99", "tight p50", "tight p99"],
        [[name, *(round(summarize(of[kind]).median, 2) for kind in kinds)] for name, of in values.items()],
        1,
    )
    for name, told in cold.items():
        ready, first = told["hello_ns"] / 1e6, told["first_ns"] / 1e6
        progress.note(f"{name}: a new one says hello after {ready:.0f} ms, has answered after {first:.0f} ms")

    def share(name: str, above: str, below: str, kind: str = "total", way: Better = Better.LOWER) -> Figure:
        return median(name, ratios(values[above][kind], values[below][kind]), "x", way, yardstick=below)

    figures = []
    if "WASM, exported" in ways:
        figures += [
            share("WASM fresh to Python, paced", "WASM, exported", _PYTHON),
            share("wasmtime-py to WASM fresh, tight", "WASM, wasmtime-py", "WASM, no imports", "tight",
                  Better.HIGHER),
            share("wasmtime-py to WASM fresh, paced", "WASM, wasmtime-py", "WASM, no imports", "total",
                  Better.HIGHER),
        ]  # fmt: skip
    if "DLF, kept" in ways:
        figures.append(share("DLF kept to Python, paced", "DLF, kept", _PYTHON))
    if _SPAWN in ways:
        figures += [
            share("program ahead to posix_spawn", "program, ahead", _SPAWN),
            share("program to posix_spawn", "program", _SPAWN),
        ]
    for where in ("one core", "two cores"):
        pair = (f"Python worker, {where}", f"ProcessPoolExecutor, {where}")
        figures.append(share(f"Python worker to process pool, {where}", *pair, "tight"))
        figures.append(share(f"Python worker to process pool, {where}, paced", *pair))
    figures += [median(f"{name}: total", summarize(of["total"]), "us") for name, of in values.items()]
    return figures


def _side_by_side(p: Parameters, ways: dict[str, dict[str, Any]], progress: Run) -> list[Figure]:
    """Two SQ callers alone, and beside four of BQ."""
    figures = []
    core, other = cores()
    for name in ("DLF, kept", "WASM, exported", "program"):
        if name not in ways:
            continue
        way = {key: value for key, value in ways[name].items() if key != "cpus"}
        rate = p.sq_rate_programs if name == "program" else p.sq_rate
        found: dict[str, dict[str, list[float]]] = {"alone": {}, "beside": {}}
        missed = 0
        with ExitStack() as stack:
            strict = [
                stack.enter_context(_Engine({**way, "cpus": [cpu], "fifo": _FIFO})) for cpu in (core, other)
            ]
            ordinary = [stack.enter_context(_Engine(way)) for _ in range(4)]
            scheduled = strict[0].told["scheduling"]
            progress.note(
                f"SQ, {name}: {scheduled['policy']}, budget {scheduled['budget']} {scheduled['reason']}"
            )
            for number in progress.repetitions(p.rounds):
                for kind in turned(tuple(found), number):
                    with progress.variant(f"round {number + 1} of {p.rounds}: {name}, SQ {kind}"):
                        beside = ordinary if kind == "beside" else []
                        for each in beside:
                            each.ask(seconds=p.seconds * 1.2)
                        for each in strict:
                            each.ask(seconds=p.seconds, rate=rate)
                        of_strict = [each.answer() for each in strict]
                        of_ordinary = [each.answer() for each in beside]
                    missed_now = sum(each["missed"] for each in of_strict)
                    missed += missed_now
                    lates = [late / 1e3 for each in of_strict for late in each["late"]]
                    totals = [total / 1e3 for each in of_strict for total in each["total"]]
                    result = {"p50": percentile(lates, 50), "p99": percentile(lates, 99)}
                    result |= {"p99.9": percentile(lates, 99.9), "mean": sum(totals) / len(totals)}
                    result["missed"] = missed_now
                    if not number:
                        for quality, engines in (("SQ", of_strict), ("BQ", of_ordinary)):
                            times = [total for each in engines for total in each["total"]]
                            if times:
                                about = {"load": kind, "class": quality, "from": "the function's call"}
                                progress.add_samples(name, {**about, **samples.pack(times)})
                    if beside:
                        other_totals = [total / 1e3 for each in of_ordinary for total in each["total"]]
                        result["BQ mean"] = sum(other_totals) / len(other_totals)
                        result["BQ rate"] = len(other_totals) / (p.seconds * 1.2)
                    progress.keep(f"{name}, SQ {kind}", result)
                    for key, value in result.items():
                        found[kind].setdefault(key, []).append(value)
        alone, beside_it = found["alone"], found["beside"]
        figures += [
            *(
                median(f"SQ {part} beside BQ to alone, {name}", ratios(beside_it[part], alone[part]), "x",
                       Better.LOWER)
                for part in ("p99", "p99.9")
            ),
            Figure(f"SQ missed, {name}", missed, "events", Better.LOWER),
            median(f"SQ to BQ, mean time, {name}", ratios(beside_it["mean"], beside_it["BQ mean"]), "x",
                   Better.LOWER, source="about halved"),
            median(f"SQ p99 alone, {name}", summarize(alone["p99"]), "us"),
            median(f"SQ p99 beside BQ, {name}", summarize(beside_it["p99"]), "us"),
            median(f"BQ beside SQ, {name}", summarize(beside_it["BQ rate"]), "events/s"),
        ]  # fmt: skip
    return figures
