"""An observation tool as a process, read as a program reads it; and the processes that it looks at."""

from __future__ import annotations

import functools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec

from support import forking
from support.waiting import LIMIT, until
from tempos_bench.nodes.namespace import Namespace

_ACTING = Path(__file__).with_name("observed.py")
Line = dict[str, Any]
_P = ParamSpec("_P")


class Observed:
    """`tempos observe ...` with --json. Once entered it is attached; ``start`` is its first line.

    ``into``: a file that it writes to, read once it has ended: who reads at once takes a CPU from it.
    """

    def __init__(self, *arguments: str, into: Path | None = None) -> None:
        self._arguments = arguments
        self._into = into
        self._lines: queue.Queue[Line | None] = queue.Queue()
        self.lines: list[Line] = []

    def __enter__(self) -> Observed:
        with ExitStack() as stack:
            out = stack.enter_context(self._into.open("w")) if self._into else subprocess.PIPE
            self._process = forking.start(
                [sys.executable, "-m", "tempos", "observe", *self._arguments, "--json"],
                stdout=out, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        if self._into:
            until(lambda: self._process.poll() is not None or self._into.stat().st_size, "it begins")
            return self
        threading.Thread(target=self._read, daemon=True).start()
        self.start = self._next()
        if not self.lines:
            raise AssertionError(f"it did not start: {self._process.communicate()[1]}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def until(self, is_it: Callable[[Line], bool]) -> Line:
        """The first line, of those to come, that is so."""
        while True:
            line = self._next()
            assert line is not None, f"it ended: {self.lines[-1:]}"
            if is_it(line):
                return line

    def stop(self, number: int = signal.SIGINT, *, code: int = 0) -> list[Line]:
        """Tell it to end; all its lines, the last of which is its account."""
        self._process.send_signal(number)
        if self._into:
            self._process.wait(LIMIT)
            self.lines = [json.loads(line) for line in self._into.read_text().splitlines()]
        else:
            while self._next() is not None:
                pass
        ended, errors = self._process.wait(LIMIT), self._process.stderr
        if not code and ended == 1 and any(self.lines[-1].get("lost", {}).values()):
            raise Crowded(self.lines[-1])
        assert ended == code, (self.lines[-1:], errors and errors.read())
        assert self.lines[-1]["type"] == "end"
        return self.lines

    def _next(self) -> Line | None:
        try:
            line = self._lines.get(timeout=LIMIT)
        except queue.Empty:
            raise AssertionError(f"{self._arguments}: silent for {LIMIT} s after {self.lines[-1:]}") from None
        if line is not None:
            self.lines.append(line)
        return line

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as out:
            for line in out:
                self._lines.put(json.loads(line))
        self._lines.put(None)


class Acting:
    """The processes of :func:`acting`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        word, *pids = process.stdout.readline().split()
        assert word == "ready"
        self.pids = [*map(int, pids)]

    def go(self) -> list[dict[str, Any]]:
        """Let them act; what each of them did, once all are done. They live on."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        done = []
        for _ in self.pids:
            done.append(json.loads(self._process.stdout.readline()))
            assert "error" not in done[-1], done[-1]
        return done


def called(index: int) -> str:
    """A process of :func:`acting`, as no other run of the tests calls one."""
    return f"obs{os.getpid()}-{index}"


def contained(space: Namespace) -> tuple[str, ...]:
    """What puts a command into this network namespace, and into a namespace of processes of its own."""
    return ("nsenter", f"--net={space.path}", "unshare", "--pid", "--fork", "--kill-child", "--")


class Crowded(AssertionError):
    """A tool lost something; there may have been too much for it of what else goes on here."""


def undisturbed(test: Callable[_P, None]) -> Callable[_P, None]:
    """Try a test again that was disturbed so, a few times."""

    @functools.wraps(test)
    def tried(*arguments: _P.args, **named: _P.kwargs) -> None:
        for _ in range(4):
            with suppress(Crowded):
                return test(*arguments, **named)
        return test(*arguments, **named)

    return tried


class Filtered:
    """A tool once for all processes, once by the id of one of them, once by the name of one, or of all.

    ``by``: what they are called; else each has a name of its own. Once entered all are attached.
    """

    def __init__(self, tool: str, acts: Acting, *more: str, comm: str = "", everybody: bool = True) -> None:
        self._which = len(acts.pids) // 2
        self._one = bool(comm)
        asked = {
            "pid": ("--pid", str(acts.pids[self._which])),
            "comm": ("--comm", comm or called(self._which)),
        }
        if everybody:
            asked["all"] = ()
        self._tools = {how: Observed(tool, *words, *more) for how, words in asked.items()}

    def __enter__(self) -> Filtered:
        with ExitStack() as stack, ThreadPoolExecutor() as pool:
            for each in pool.map(lambda each: stack.enter_context(each), self._tools.values()):
                assert each
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def stop(
        self, done: list[dict[str, Any]]
    ) -> Iterator[tuple[list[Line], dict[int, dict[str, Any]], bool]]:
        """Of each: its lines; what those did that it was asked for, by their number; whether it was asked."""
        for how, tool in self._tools.items():
            one = how == "pid" or (how == "comm" and not self._one)
            whom = {self._which: done[self._which]} if one else dict(enumerate(done))
            yield tool.stop(), whom, how != "all"


@contextmanager
def acting(
    act: str, *, processes: int = 1, space: Namespace | None = None, **options: Any
) -> Iterator[Acting]:
    """So many processes that do ``act`` of tests/support/observed.py when they are told.

    ``space``: in that network namespace, and in one of processes that is theirs alone.
    """
    asked = json.dumps({"act": act, "processes": processes, "called": called(0)[:-1], **options})
    inside = () if space is None else contained(space)
    process = subprocess.Popen(
        [*inside, sys.executable, "-S", str(_ACTING), asked],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Acting(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(LIMIT) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def rows(lines: list[Line], table: str) -> list[Line]:
    """The rows of a table, of all looks."""
    return [line for line in lines if line["type"] == "row" and line["table"] == table]


def inode(path: str = "/proc/self/ns/net") -> int:
    """Of a network namespace: what a tool calls it."""
    return Path(path).stat().st_ino
