"""Functions as programs: a process for each event.

The event's body comes on standard input, what the program writes on standard output is the result, what it
writes on standard error goes into the log. Exit status 0 is success (without any output: no result), 65 is a
refusal, anything else an error with the last line of standard error as its text; ended by a signal is a
crash. ``args`` is the command line, in which ``{code}`` stands for the path of the code; without it the code
itself is run.

    TEMPOS_ID         publisher:sequence in hex, the same however often the event comes again
    TEMPOS_TOPIC  TEMPOS_WORKFLOW  TEMPOS_STEP  TEMPOS_PUBLISHER  TEMPOS_SEQUENCE
    TEMPOS_ATTEMPT    from 1
    TEMPOS_SENT_NS    the publisher's wall clock
    TEMPOS_LEFT_NS    how long it may take

are in its environment, beside ``env`` and what every program needs (PATH, HOME, LANG and the like; nothing
else of the invoker's). With ``ahead`` = N so many processes are started before there is an event: each waits
for its standard input, and reads the same lines NAME=value, up to the end, on the file descriptor that
TEMPOS_EVENT_FD names.

At its deadline a program is killed with everything that it started; so is what it leaves behind. ``memory``
bounds the data of each process (RLIMIT_DATA), ``processes`` how many its user may have, threads and those of
others included (RLIMIT_NPROC).
"""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path
from typing import Any

from tempos_invoker.worker import elf, scheduling
from tempos_invoker.worker.native import Native
from tempos_invoker.worker.unfit import Unfit

#: Most processes that wait for events in one worker.
MOST_AHEAD = 64
#: What of the invoker's environment a program gets.
_PASSED = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PATH = "/usr/local/bin:/usr/bin:/bin"
_EVENT_FD = 3
_INTERPRETER_LINE = 256


class SpawnFunction(Native):
    """A program that can be started. ``spec``: the worker's specification; raises :class:`Unfit`."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__(float(spec["timeout"]), int(spec.get("output") or 0))
        if spec.get("grants"):
            raise Unfit("a program has the rights of its user; grants are for mode wasm")
        ahead = int(spec.get("ahead") or 0)
        if ahead > MOST_AHEAD:
            raise Unfit(f"ahead: {ahead} processes; at most {MOST_AHEAD} can wait in one worker")
        settings = self.keep(self.ffi.new("struct tempos_spawn_settings *"))
        env = self._environment(spec, ahead)
        arguments, program = _command(spec, env["PATH"])
        settings.program, settings.argv = self.text(program), self.texts(arguments)
        settings.cwd = self.text(spec.get("cwd") or "")
        if spec.get("cwd") and not Path(spec["cwd"]).is_dir():
            raise Unfit(f"the folder {spec['cwd']} cannot be worked in: it is not there")
        self._become(settings, spec.get("user") or "", env)
        settings.env = self.texts(f"{name}={value}" for name, value in env.items())
        settings.memory = int(spec.get("memory") or 0)
        settings.processes = int(spec.get("processes") or 0)
        if settings.processes and not (settings.uid if settings.become else os.geteuid()):
            raise Unfit("processes: the kernel bounds none of root's; give the function a user")
        settings.fifo = scheduling.fifo()
        settings.share = scheduling.budget(spec.get("scheduling") or {}) if settings.fifo else 0
        settings.ahead = ahead
        self.have(self.lib.tempos_worker_spawn, settings)

    @staticmethod
    def _environment(spec: dict[str, Any], ahead: int) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if name in _PASSED or name.startswith("LC_")}
        env.setdefault("PATH", _PATH)
        env |= {str(name): str(value) for name, value in (spec.get("env") or {}).items()}
        if ahead:
            env["TEMPOS_EVENT_FD"] = str(_EVENT_FD)
        return env

    def _become(self, settings: Any, user: str, env: dict[str, str]) -> None:
        if not user:
            return
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise Unfit(f"there is no user {user!r} on this machine") from None
        if entry.pw_uid == os.geteuid() == os.getuid():
            return
        if os.geteuid() != 0:
            raise Unfit(f"cannot become the user {user!r}; only root can")
        groups = os.getgrouplist(user, entry.pw_gid)
        settings.become, settings.uid, settings.gid = 1, entry.pw_uid, entry.pw_gid
        settings.groups, settings.group = len(groups), self.keep(self.ffi.new("uint32_t[]", groups))
        env["HOME"] = entry.pw_dir


def _command(spec: dict[str, Any], path: str) -> tuple[list[str], str]:
    """The command line, and the file that is run; raises :class:`Unfit` where there is none."""
    code = str(spec.get("code") or "")
    if code and not Path(code).is_file():
        raise Unfit(f"the code {code} is not there")
    arguments = [str(each).replace("{code}", code) for each in spec.get("args") or ()] or [code]
    name = arguments[0]
    if not name:
        raise Unfit("a function of mode spawn needs its code, or the command line as args")
    program = shutil.which(name, path=path)
    if program is None:
        if "/" in name and Path(name).exists():
            raise Unfit(f"{name} is not executable: chmod +x, or name what runs it in args")
        raise Unfit(f"the program {name} is not there" + ("" if "/" in name else f" (looked in {path})"))
    _look_at(Path(program))
    return arguments, str(Path(program).absolute())


def _look_at(program: Path) -> None:
    """Raise :class:`Unfit` for what the kernel will not execute."""
    try:
        with program.open("rb") as file:
            head = file.read(_INTERPRETER_LINE)
    except OSError:
        # It can be executed, and not read.
        return
    if head.startswith(b"#!"):
        words = head[2:].split(b"\n", 1)[0].split()
        interpreter = os.fsdecode(words[0]) if words else ""
        if not os.access(interpreter, os.X_OK):
            raise Unfit(f"{program.name} is to be run by {interpreter or 'nothing'}, which is not there")
    elif (found := elf.read(program)) is not None:
        elf.must_fit(program, found)
    else:
        raise Unfit(f"{program.name} is no program: it is neither ELF nor begins with #!")
