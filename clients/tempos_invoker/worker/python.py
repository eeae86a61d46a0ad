"""Functions in Python: ``def f(body)`` or ``def f(body, context)``, sync or async, one call at a time.

    body      the event's, bytes
    context   :class:`tempos_invoker.Context`
    gives     bytes and the like as they are, text as UTF-8, anything else as msgpack; None is nothing: no
              result is published

What it raises is an error, with its last line as text and the whole of it in the log; :class:`Refused`
says that the function will not have this event. An async function that is not done by its deadline is
cancelled and its worker goes on, once what it gave to the loop's threads is over; one that is not over soon,
or not async, ends with its worker. Each call is answered before the next one begins, so that whoever started
the worker knows which one it died of.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import importlib.util
import inspect
import json
import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from tempos import wire
from tempos.errors import one_line
from tempos_invoker.context import Context, Refused
from tempos_invoker.worker.incoming import Incoming
from tempos_invoker.worker.unfit import Unfit
from tempos_invoker.workers import frames
from tempos_invoker.workers.frames import Answer, Call, Condition
from tempos_invoker.workers.notes import ANSWERED, BEGUN, BEGUN_NS, DONE, DONE_BEGUN_NS, DONE_NS

_ID = "{:08x}:{:08x}"
#: What an archive of modules is called.
_ARCHIVES = (".zip", ".whl", ".pyz")


class PythonFunction:
    """A function that is loaded. ``spec``: the worker's specification; raises :class:`Unfit`."""

    def __init__(self, spec: dict[str, Any]) -> None:
        #: What it does is noted there, if it is given a page.
        self.notes: memoryview | None = None
        self._limit = min(int(spec.get("output") or frames.LARGEST_OUTPUT), frames.LARGEST_OUTPUT)
        self._timeout = float(spec["timeout"])
        self._places: dict[int, tuple[str, str, str]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = _Threads(thread_name_prefix="asyncio")
        self._function = _load(spec)
        self._with_context = _takes_context(self._function, spec["entry"])
        logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)

    def serve(self, sock: socket.socket) -> None:
        """Answer calls until the other end closes."""
        gc.collect()
        gc.freeze()
        send, answer, notes = sock.send, self.answer, self.notes
        for call in Incoming(sock):
            if call.flags & frames.PLACE:
                place = json.loads(call.body)
                self._places[call.place] = (place["topic"], place["workflow"], place["step"])
                continue
            done = answer(call)
            if notes is not None and call.flags & frames.QUIET and not done.condition:
                notes[DONE_BEGUN_NS], notes[DONE_NS] = done.started_ns, done.ended_ns
                notes[DONE] = done.ticket
            else:
                send(done.encode())
                if notes is not None:
                    notes[ANSWERED] = done.ticket

    def answer(self, call: Call) -> Answer:
        """Call the function once."""
        started = time.monotonic_ns()
        if (notes := self.notes) is not None:
            notes[BEGUN_NS] = started
            notes[BEGUN] = call.ticket
        flags = 0
        try:
            output = self._call(call, started)
            condition = 0
            if type(output) is not bytes:
                output = self._encoded(output)
            if output is None:
                output, flags = b"", frames.NOTHING
            elif len(output) > self._limit:
                condition = Condition.TOO_LARGE
                output = f"the output has {len(output)} bytes, {self._limit} are allowed".encode()
        except Refused as error:
            condition, output = Condition.REFUSED, _text(error)
        except _Late:
            condition, output = Condition.TIMEOUT, b"cancelled at its deadline"
        except Exception as error:  # noqa: BLE001 - the function's own; it is told, and the worker goes on
            condition, output = Condition.ERROR, _text(error)
            # Where it has closed what it would be written to, its answer says it.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                traceback.print_exception(type(error), error, _foreign(error))
            _have_outputs()
        return Answer(call.ticket, condition, output, started, time.monotonic_ns(), flags)

    def warm(self, body: bytes) -> None:
        """Call it once for nothing, so that all is loaded for the first event; raises :class:`Unfit`."""
        answer = self.answer(Call(0, body))
        if answer.condition != Condition.SUCCEEDED:
            text = answer.output.decode(errors="replace")
            name = Condition(answer.condition).name.lower().replace("_", " ")
            raise Unfit(f"the warm-up ended with {name}: {text}")

    def _call(self, call: Call, started: int) -> Any:
        if self._with_context:
            topic, workflow, step = self._places.get(call.place, ("", "", ""))
            context = Context(
                _ID.format(call.publisher, call.sequence),
                call.publisher,
                call.sequence,
                topic,
                workflow,
                step,
                call.attempt,
                self._deadline(call, started),
                call.sent_ns,
            )
            result = self._function(call.body, context)
        else:
            result = self._function(call.body)
        if result is None or type(result) is bytes or not inspect.isawaitable(result):
            return result
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
            self._loop.set_default_executor(self._threads)
        self._threads.given.clear()
        left = self._deadline(call, started) - time.monotonic()
        return self._loop.run_until_complete(_within(result, left, self._threads))

    def _deadline(self, call: Call, started: int) -> float:
        # Who waits in a worker behind others has its whole time from when its turn comes.
        deadline = started / 1e9 + self._timeout
        return min(deadline, call.deadline_ns / 1e9) if call.deadline_ns else deadline

    @staticmethod
    def _encoded(result: Any) -> bytes | None:
        if result is None or type(result) is bytes:
            return result
        if isinstance(result, str):
            return result.encode()
        return wire.encode_body(result)


class _Late(Exception):
    """An async function was not done by its deadline."""


class _Threads(ThreadPoolExecutor):
    """The loop's threads; ``given``: what they have of the call that runs."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.given: set[Future[Any]] = set()

    def submit(self, *args: Any, **more: Any) -> Future[Any]:
        future = super().submit(*args, **more)
        self.given.add(future)
        future.add_done_callback(self.given.discard)
        return future


async def _within(result: Any, seconds: float, threads: _Threads) -> Any:
    task = asyncio.ensure_future(result)
    done, _ = await asyncio.wait({task}, timeout=max(seconds, 0))
    if not done:
        task.cancel()
        # It may have something to put away; if it takes too long over that, the worker is killed.
        await asyncio.wait({task})
        # A thread that goes on would be missing to the calls that follow, which would be late in their turn.
        await asyncio.gather(*map(asyncio.wrap_future, [*threads.given]), return_exceptions=True)
        raise _Late
    return task.result()


def _load(spec: dict[str, Any]) -> Callable[..., Any]:
    """The function that ``entry`` names, in the code file if there is one."""
    name, _, path = spec["entry"].partition(":")
    module = _module(name, spec.get("code") or "", spec.get("folder") or "")
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            functions = sorted(
                key for key, value in vars(module).items() if callable(value) and not key.startswith("_")
            )
            there = f"; it has {', '.join(functions[:8])}" if functions else ""
            raise Unfit(f"the module {name} has no {path}{there}")
        found = getattr(found, part)
    if not callable(found):
        raise Unfit(f"{spec['entry']} is {type(found).__name__}, not a function")
    called: Callable[..., Any] = found
    return called


def _module(name: str, code: str, folder: str) -> ModuleType:
    try:
        if not code or code.endswith(_ARCHIVES):
            if code:
                sys.path.insert(0, code)
            return importlib.import_module(name)
        # Its neighbours can be imported, as when it is run.
        sys.path.insert(0, folder or str(Path(code).parent))
        where = importlib.util.spec_from_file_location(name, code)
        if where is None or where.loader is None:
            raise Unfit(f"{code} is no module of Python: its name ends with .py, .zip or .whl")
        module = sys.modules[name] = importlib.util.module_from_spec(where)
        where.loader.exec_module(module)
        return module
    except Unfit:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise Unfit(f"there is no module {name} ({one_line(error)})") from error
        raise Unfit(f"the module {name} cannot be imported: {one_line(error)}") from error
    except BaseException as error:
        # Whatever a module does when it is imported, sys.exit() included, is told.
        traceback.print_exc()
        raise Unfit(
            f"the module {name} cannot be imported: {type(error).__name__}: {one_line(error)}"
        ) from error


def _takes_context(function: Callable[..., Any], entry: str) -> bool:
    """Whether it has a place for a second argument."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # Built in, without a description: it gets what every function gets.
        return False
    for count in (2, 1):
        try:
            signature.bind(*(None,) * count)
        except TypeError:
            continue
        return count == 2
    raise Unfit(f"{entry}{signature} cannot be called: a function takes (body) or (body, context)")


def _have_outputs() -> None:
    """Have standard output and error lead nowhere where the function has closed them.

    What waits to be written there would fail at the end, and some Pythons then exit with a code of their own.
    """
    for descriptor in (1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


def _text(error: BaseException) -> bytes:
    try:
        told = one_line(error)
    except Exception as second:  # noqa: BLE001 - the function's own, which cannot say what it is
        told = f"it has no text, for that ends in {type(second).__name__}"
    text = told if isinstance(error, Refused) else f"{type(error).__name__}: {told}"
    return text.encode(errors="backslashreplace")


def _foreign(error: BaseException) -> Any:
    """The traceback from where the function's own code begins."""
    here = os.path.dirname(__file__)  # noqa: PTH120 - compared with what code objects hold, as it is
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(here):
            break
        trace = trace.tb_next
    return trace
