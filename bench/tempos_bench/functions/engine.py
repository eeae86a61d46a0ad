"""One way to run a function, in a process of its own: `python -m tempos_bench.functions.engine WAY`.

WAY is JSON: ``kind`` (a function of :data:`KINDS`), what that needs, ``cpus`` and ``fifo``. Prints what it
got, a JSON line, and then answers each line of its input, {"count", "rate", "seconds"}: so many calls with
the event, at ``rate``/s or (0) without a pause, or as long as that takes. The answer has nanoseconds of each
call: ``start`` until the function's own code could begin, ``total``, and ``late``, from when it was due to
its end; ``missed`` counts the turns that had passed before the one before was done.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import importlib.util
import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tempos_bench.functions.built import EVENT
from tempos_invoker.worker import scheduling
from tempos_invoker.worker.__main__ import MODES
from tempos_invoker.workers import frames
from tempos_invoker.workers.frames import Answer, Call, Condition

#: A call: when it began, when the function's own code could begin, when it was over; nanoseconds.
Times = tuple[int, int, int]
Way = Callable[[bytes], Times]

_NS = 1_000_000_000


def inside(way: Mapping[str, Any]) -> Way:
    """A worker's engine, called in this process."""
    module, name = MODES[way["spec"]["mode"]]
    function = getattr(importlib.import_module(module), name)(dict(way["spec"]))

    def call(body: bytes) -> Times:
        done = function.once(body)
        if done.condition != Condition.SUCCEEDED:
            raise RuntimeError(f"{done.condition.name}: {done.output!r}")
        return done.started_ns, done.ready_ns, done.ended_ns

    return call


def python(way: Mapping[str, Any]) -> Way:
    """The function in Python, in this process."""
    return _around(_python_function(way["code"]))


def binding(way: Mapping[str, Any]) -> Way:
    """Wasmtime's own Python binding: a store and an instance for each call."""
    wasmtime: Any = importlib.import_module("wasmtime")
    engine = wasmtime.Engine()
    module = wasmtime.Module.from_file(engine, way["code"])

    def call(body: bytes) -> bytes:
        store = wasmtime.Store(engine)
        exports = wasmtime.Instance(store, module, []).exports(store)
        memory, at = exports["memory"], exports["tempos_alloc"](store, len(body))
        memory.write(store, body, at)
        result = exports["tempos_call"](store, at, len(body)) & (2**64 - 1)
        return bytes(memory.read(store, result >> 32, (result >> 32) + (result & 0xFFFFFFFF)))

    return _around(call)


def posix_spawn(way: Mapping[str, Any]) -> Way:
    """A process for each call by os.posix_spawn, with pipes."""

    def call(body: bytes) -> bytes:
        inner, write = os.pipe()
        read, outer = os.pipe()
        files = [(os.POSIX_SPAWN_DUP2, inner, 0), (os.POSIX_SPAWN_DUP2, outer, 1)]
        pid = os.posix_spawn(way["code"], [way["code"]], os.environ, file_actions=files)
        os.close(inner)
        os.close(outer)
        os.write(write, body)
        os.close(write)
        output = os.read(read, frames.MESSAGE)
        os.close(read)
        os.waitpid(pid, 0)
        return output

    return _around(call)


def worker(way: Mapping[str, Any]) -> Way:
    """A call and its answer over a worker's socket pair; the worker on ``worker_cpu``."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.set_inheritable(theirs.fileno(), True)
    began = time.monotonic_ns()
    arguments = [sys.executable, "-m", "tempos_invoker.worker", str(theirs.fileno())]
    os.posix_spawn(sys.executable, arguments, os.environ)
    theirs.close()
    cpus = [way["worker_cpu"]] if "worker_cpu" in way else []
    ours.send(json.dumps({**way["spec"], "scheduling": {"cpus": cpus}}).encode())
    (hello,) = frames.answers(ours.recv(frames.MESSAGE))
    if not json.loads(hello.output)["ok"]:
        raise RuntimeError(json.loads(hello.output)["text"])
    ready = time.monotonic_ns()

    def call(body: bytes) -> bytes:
        ours.send(Call(1, body).encode())
        answer: Answer = next(frames.answers(ours.recv(frames.MESSAGE)))
        return answer.output

    called = _around(call)
    called(EVENT)
    way["told"].update(hello_ns=ready - began, first_ns=time.monotonic_ns() - began)
    return called


def pool(way: Mapping[str, Any]) -> Way:
    """A call by concurrent.futures' process pool, of one process on ``worker_cpu``."""
    executor = concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=_pin, initargs=([way["worker_cpu"]],)
    )
    way["over"].append(executor.shutdown)
    called = _around(lambda body: executor.submit(_count, way["code"], body).result())
    called(EVENT)
    return called


KINDS = {each.__name__: each for each in (inside, python, binding, posix_spawn, worker, pool)}
_functions: dict[str, Callable[[bytes], bytes]] = {}


def _count(code: str, body: bytes) -> bytes:
    """In the pool's process."""
    if code not in _functions:
        _functions[code] = _python_function(code)
    return _functions[code](body)


def _pin(cpus: list[int]) -> None:
    os.sched_setaffinity(0, cpus)


def _python_function(code: str) -> Callable[[bytes], bytes]:
    where = importlib.util.spec_from_file_location("count", code)
    assert where is not None, "a file of Python"
    assert where.loader is not None, "a file of Python"
    module = importlib.util.module_from_spec(where)
    where.loader.exec_module(module)
    function: Callable[[bytes], bytes] = module.count
    return function


def _around(function: Callable[[bytes], bytes]) -> Way:
    def call(body: bytes) -> Times:
        began = time.monotonic_ns()
        output = function(body)
        ended = time.monotonic_ns()
        if len(output) != 8:
            raise RuntimeError(f"the function gave {output!r}")
        return began, began, ended

    return call


def measure(call: Way, count: int, rate: float, seconds: float) -> dict[str, Any]:
    """So many calls, or as many as are begun in ``seconds``."""
    starts: list[int] = []
    totals: list[int] = []
    lates: list[int] = []
    missed = 0
    period = int(_NS / rate) if rate else 0
    due = begin = time.monotonic_ns() + period
    end = begin + int(seconds * _NS)
    while (not count or len(totals) < count) and (not seconds or due < end):
        if period:
            time.sleep(max(due - time.monotonic_ns(), 0) / _NS)
        began, ready, ended = call(EVENT)
        starts.append(ready - began)
        totals.append(ended - began)
        lates.append(ended - (due if period else began))
        now = time.monotonic_ns()
        due = due + period if period else now
        while period and due + period < now:
            due += period
            missed += 1
    return {"start": starts, "total": totals, "late": lates, "missed": missed}


def main() -> None:
    """Entry of the program."""
    way = {**json.loads(sys.argv[1]), "told": {}, "over": []}
    got = scheduling.apply({"cpus": way.get("cpus"), "fifo": way.get("fifo", 0)})
    call = KINDS[way["kind"]](way)
    for _ in range(3):
        call(EVENT)
    print(json.dumps({"scheduling": got, **way["told"]}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        done = measure(call, asked.get("count", 0), asked.get("rate", 0), asked.get("seconds", 0))
        print(json.dumps(done), flush=True)
    for end in way["over"]:
        end()


if __name__ == "__main__":
    main()
