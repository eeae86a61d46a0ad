"""cd-snoop tells what users of interactive shells do, where it led them, and what bash says if it did not."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.observing import LIMIT, Line, Observed, contained
from support.privileges import require, require_kernel
from support.processes import descendants
from support.waiting import until

from tempos_bench.nodes.namespace import Namespace
from tempos_bpf.symbols import symbol_addresses, symbol_offset

pytestmark = [pytest.mark.kernel, pytest.mark.netns]


@pytest.fixture(autouse=True)
def _needs() -> None:
    require_kernel()
    require(None if shutil.which("bash") else "bash is not installed")


class Shell:
    """An interactive bash on a terminal of its own; with ``space`` in a container."""

    def __init__(self, home: Path, space: Namespace | None = None) -> None:
        child, self._terminal = pty.fork()
        words = [*(contained(space) if space else ()), "bash", "--norc", "-i"]
        if not child:
            os.chdir(home)
            os.execvpe(words[0], words, {"LC_ALL": "C", "HOME": str(home), "PATH": "/usr/bin:/bin"})
        self._child = self.pid = child
        if space:
            until(lambda: [pid for pid in descendants(child) if is_bash(pid)], "it is a shell")
            (self.pid,) = descendants(child)

    def type(self, *lines: str) -> None:
        os.write(self._terminal, "".join(f"{line}\n" for line in lines).encode())

    def close(self) -> None:
        self.type("exit")
        while True:
            try:
                if not os.read(self._terminal, 65536):
                    break
            except OSError:  # what a terminal says when nobody is at its other end
                break
        os.waitpid(self._child, 0)
        os.close(self._terminal)


def is_bash(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == "bash\n"


@contextmanager
def shells(count: int, home: Path, space: Namespace | None = None) -> Iterator[list[Shell]]:
    opened = [Shell(home, space) for _ in range(count)]
    try:
        yield opened
    finally:
        for shell in opened:
            shell.close()


def said(lines: list[Line], shell: Shell) -> list[tuple[str, str, str, str | None]]:
    return [
        (line["previous"], line["current"], line["command"], line["error"])
        for line in lines
        if line["type"] == "event" and line["pid"] == shell.pid
    ]


@pytest.mark.parametrize("count", [1, 50])
def test_where_they_go_and_where_they_cannot(count: int, space: Namespace | None, tmp_path: Path) -> None:
    home, there = str(tmp_path), tmp_path / "a b"
    there.mkdir()
    # Half of them wait for their user already when it begins.
    with (
        shells(count - count // 2, tmp_path, space) as before,
        Observed("cd-snoop", "--comm", "bash") as tool,
        Observed("cd-snoop", "--pid", str(before[-1].pid)) as of_one,
    ):
        with shells(count // 2, tmp_path, space) as later:
            for shell in (*before, *later):
                shell.type(
                    "cd 'a b'", "cd ..", "cd nowhere", "cd one two", "bash -c 'cd /'", "cd /; cd -", "cd"
                )
            waiting = {shell.pid: 7 for shell in (*before, *later)}
            while any(waiting.values()):
                line = tool.until(lambda line: line.get("pid") in waiting)
                waiting[line["pid"]] -= 1
        lines, lines_of_one = tool.stop(), of_one.stop()
    chosen = before[-1]
    assert said(lines_of_one, chosen) == said(lines, chosen)
    assert len(lines_of_one) == 2 + 7
    for shell in (*before, *later):
        assert said(lines, shell) == [
            (home, str(there), "cd a b", None),
            (str(there), home, "cd ..", None),
            (home, home, "cd nowhere", "bash: cd: nowhere: No such file or directory"),
            (home, home, "cd one two", "bash: cd: too many arguments"),
            (home, "/", "cd /", None),
            ("/", home, "cd -", None),
            (home, home, "cd", None),
        ]


def test_nothing_is_lost_of_a_shell_that_goes_as_fast_as_it_can(tmp_path: Path) -> None:
    """As many in a row as find room while the tool has no time at all; again once it has told of them."""
    runs, count, told = 5, 10_000, tmp_path / "told"
    with shells(1, tmp_path) as (shell,), Observed("cd-snoop", into=told) as tool:
        for run in range(1, runs + 1):
            shell.type(
                f"for ((n = 0; n < {count}; n++)); do cd /; cd /nowhere 2>/dev/null; done; : >~/done{run}"
            )
            until((tmp_path / f"done{run}").exists, "it has gone everywhere")
            until(lambda run=run: told.read_text().count('"cd /') >= 2 * count * run, "all of it is told")
        lines = tool.stop()
    assert lines[-1]["lost"] == {"moves": 0}
    gone = Counter(line["error"] for line in lines if line.get("pid") == shell.pid)
    assert gone == {None: runs * count, "bash: cd: /nowhere: No such file or directory": runs * count}


@pytest.mark.parametrize(("shell", "words"), [
    (sys.executable, "it has no symbol cd_builtin"),
    (__file__, "it is no ELF file"),
    ("/no/such/shell", "there is no shell"),
])  # fmt: skip
def test_a_shell_that_has_none_of_it_is_told(shell: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tempos", "observe", "cd-snoop", "--shell", shell],
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_symbols_are_where_the_linker_says() -> None:
    """Held against the library that is loaded here."""
    import ctypes
    import ctypes.util

    libc = next(
        Path(line.split()[-1])
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/libc.so" in line
    )
    addresses = symbol_addresses(libc)
    loaded = ctypes.CDLL(str(libc))

    def at(name: str) -> int:
        return ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value or 0

    assert addresses["getpid"] - addresses["getppid"] == at("getpid") - at("getppid")
    offset = symbol_offset(libc, "getpid")
    assert offset is not None
    code = (ctypes.c_char * 8).from_address(at("getpid")).raw
    assert libc.read_bytes()[offset : offset + 8] == code
    assert symbol_offset(libc, "no_such_function") is None
