"""Examples of the manual, run as a reader would: in an empty folder, with a network of their own.

A comment before a fenced block says what it is for: `<!-- file: NAME -->` puts it into a file, `<!-- run
-->` runs each line behind "$ " and holds what is printed against what stands below it, `<!-- run: fails
-->` does so with what ends with an error, `<!-- run: background -->` with a program that goes on: its
first line of output is waited for, and all of it by the page's end, or by `<!-- end -->`. "..." stands
for anything in a line, and a line of it alone for any lines. The folder `config` is there. `<!-- needs:
NAME -->`: a program that its reader has.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.waiting import LIMIT, until

_BLOCK = re.compile(r"^<!-- (?:(file|run)(?:: ([\w./-]+))? -->\n```\w*\n(.*?)^```$|end -->$)", re.M | re.S)
_NEEDS = re.compile(r"^<!-- needs: (\S+) -->$", re.M)
_CONFIG = Path(__file__).resolve().parents[2] / "config"
_SPACE = """ip link set lo up && mount -t tmpfs none /run && (mount -t bpf none /sys/fs/bpf || :) &&
mkdir -p /var/lib/tempos && mount -t tmpfs none /var/lib/tempos && echo made && exec cat"""


@dataclass(frozen=True, slots=True)
class Step:
    """A file to write, or a command to run."""

    kind: str
    name: str
    text: str
    wanted: str = ""


def steps(page: str) -> list[Step]:
    """What a page asks its reader to do, in order."""
    return [
        step
        for found in _BLOCK.finditer(page)
        for step in _of(found[1] or "end", found[2] or "", found[3] or "")
    ]


def lacking(page: str) -> list[str]:
    """The programs that a page needs and that are not here."""
    return [name for name in _NEEDS.findall(page) if shutil.which(name) is None]


def _of(kind: str, name: str, text: str) -> Iterator[Step]:
    if kind in ("file", "end"):
        yield Step(kind, name, text)
        return
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, wanted = part.partition("\n")
        yield Step(kind, name, command, wanted)


def agrees(wanted: str, got: str) -> bool:
    """Whether what was printed is what the page has."""
    printed = "".join(f"{line.strip()}\n" for line in got.strip().splitlines())
    return re.fullmatch("".join(map(_of_line, wanted.strip().splitlines())), printed) is not None


def _of_line(wanted: str) -> str:
    """Lines as this one of the page stands for them; how many spaces are in a row does not matter."""
    if wanted.strip() == "...":
        return r"(?:.*\n)*?"
    words = re.escape(" ".join(wanted.split())).replace(r"\ ", r"[ \t]+")
    return words.replace(r"\.\.\.", ".*?") + r"\n"


@dataclass
class Reader:
    """Does what a page says, in ``folder``."""

    folder: Path
    space: int
    programs: list[tuple[Step, subprocess.Popen[bytes], Path]] = field(default_factory=list)
    begun: int = 0

    def take(self, step: Step) -> None:
        """One step; asserts that it is as the page says."""
        if step.kind == "end":
            self.end()
        elif step.kind == "file":
            (self.folder / step.name).write_text(step.text)
        elif step.name == "background":
            self._begin(step)
        else:
            done = subprocess.run(
                self._inside(step.text), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                timeout=LIMIT, check=False, env=self._environment(),
            )  # fmt: skip
            assert (done.returncode != 0) == (step.name == "fails"), (step.text, done.stdout)
            assert agrees(step.wanted, done.stdout), f"$ {step.text}\n{done.stdout}"

    def _begin(self, step: Step) -> None:
        self.begun += 1
        log = self.folder / f".output-{self.begun}"
        with log.open("wb") as out:
            program = subprocess.Popen(
                self._inside(f"exec {step.text}"), stdout=out, stderr=out, env=self._environment()
            )
        self.programs.append((step, program, log))
        first = step.wanted.partition("\n")[0]
        until(
            lambda: any(agrees(first, line) for line in log.read_text().splitlines()),
            lambda: f"$ {step.text}\n{log.read_text()}",
        )

    def end(self) -> None:
        """All that was started has printed what the page has; Ctrl-C ends it."""
        try:
            for step, _, log in self.programs:
                self._told(step, log)
        finally:
            for _, program, _ in reversed(self.programs):
                program.send_signal(signal.SIGINT)
                program.wait(LIMIT)
            self.programs.clear()

    @staticmethod
    def _told(step: Step, log: Path) -> None:
        until(lambda: agrees(step.wanted, log.read_text()), lambda: f"$ {step.text}\n{log.read_text()}")

    def _inside(self, command: str) -> list[str]:
        return ["nsenter", "-t", str(self.space), "-n", "-m", f"--wd={self.folder}", "bash", "-c", command]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TEMPOS_")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**kept, "PATH": path, "HOME": str(self.folder), "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}


@contextmanager
def reader(folder: Path) -> Iterator[Reader]:
    """A reader at a folder with `config`; loopback, /run, states and pins are nobody else's. Needs root."""
    shutil.copytree(_CONFIG, folder / "config")
    with ExitStack() as stack:
        space = stack.enter_context(
            subprocess.Popen(
                ["unshare", "--net", "--mount", "sh", "-c", _SPACE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        assert space.stdout is not None
        assert space.stdout.readline() == b"made\n"
        yield Reader(folder, space.pid)
