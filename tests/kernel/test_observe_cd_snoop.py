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
from support.observing import LIMIT, Line, Observed
from support.privileges import require, require_kernel
from support.waiting import until

from tempos_bpf.symbols import symbol_addresses, symbol_offset

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def _needs() -> None:
    require_kernel()
    require(None if shutil.which("bash") else "bash is not installed")


class Shell:
    """An interactive bash on a terminal of its own."""

    def __init__(self, home: Path) -> None:
        self.pid, self._terminal = pty.fork()
        if not self.pid:
            os.chdir(home)
            os.execvpe(
                "bash", ["bash", "--norc", "-i"], {"LC_ALL": "C", "HOME": str(home), "PATH": "/usr/bin:/bin"}
            )

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
        os.waitpid(self.pid, 0)
        os.close(self._terminal)


@contextmanager
def shells(count: int, home: Path) -> Iterator[list[Shell]]:
    opened = [Shell(home) for _ in range(count)]
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
def test_where_they_go_and_where_they_cannot(count: int, tmp_path: Path) -> None:
    home, there = str(tmp_path), tmp_path / "a b"
    there.mkdir()
    # Half of them wait for their user already when it begins.
    with shells(count - count // 2, tmp_path) as before, Observed("cd-snoop") as tool:
        with shells(count // 2, tmp_path) as later:
            for shell in (*before, *later):
                shell.type(
                    "cd 'a b'", "cd ..", "cd nowhere", "cd one two", "bash -c 'cd /'", "cd /; cd -", "cd"
                )
            waiting = {shell.pid: 7 for shell in (*before, *later)}
            while any(waiting.values()):
                line = tool.until(lambda line: line.get("pid") in waiting)
                waiting[line["pid"]] -= 1
        lines = tool.stop()
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
    count = 100_000
    with shells(1, tmp_path) as (shell,), Observed("cd-snoop", into=tmp_path / "told") as tool:
        shell.type(f"for ((n = 0; n < {count}; n++)); do cd /; cd /nowhere 2>/dev/null; done; : >~/done")
        until((tmp_path / "done").exists, "it has gone everywhere")
        lines = tool.stop()
    assert lines[-1]["lost"] == {"moves": 0}
    gone = Counter(line["error"] for line in lines if line.get("pid") == shell.pid)
    assert gone == {None: count, "bash: cd: /nowhere: No such file or directory": count}


def test_one_shell_of_two(tmp_path: Path) -> None:
    with shells(2, tmp_path) as (first, second), Observed("cd-snoop", "--pid", str(second.pid)) as tool:
        first.type("cd /")
        second.type("cd /usr")
        tool.until(lambda line: line.get("pid") == second.pid)
        assert {line["pid"] for line in tool.stop() if line["type"] == "event"} == {second.pid}


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
