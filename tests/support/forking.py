"""Programs that begin as forks of a process that has read their code: what is run as `python -m tempos...`.

To read it takes longer than most of them run in a test. All else is as with a program that is executed: its
namespace, its files and environment, its group and who ends it, its exit code; only what Python goes by, as
options and PYTHON... in the environment, is as in this process. What is started in another way is executed.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn

#: The modules that are programs: this one, packages that are, and what is in that package.
_BROKER, _PACKAGES, _OTHERS = "tempos_broker", ("tempos", "tempos_bench"), "tempos_bench."
_READ = (
    "tempos_broker.__main__", "tempos_broker.api.application", "tempos_broker.api.feed",
    "tempos_controller.commands.platform", "tempos_daemon.http_server", "tempos_fastpath.doctor",
    "tempos_fastpath.offload", "tempos_fastpath.survival.orphans", "tempos_invoker.command",
    "tempos_trigger.command",
)  # fmt: skip
#: A program of the tests.
_FAST_PATH = str(Path(__file__).with_name("offloader.py"))
#: What has this in it starts a broker after it has altered some of its code.
_BROKERS = "from tempos_broker.__main__ import main"
#: Packages whose modules are programs, or commands.
_FOLDERS = ("tempos.cli", "tempos_bench.programs", "tempos_trigger", "tempos_invoker", "tempos_controller")
_LARGEST = 1 << 18
_CLONE_NEWNET, _PR_SET_PDEATHSIG = 0x40000000, 1
#: One asks at a time.
_ASKING = threading.Lock()
#: From here on there are no descriptors of anybody else.
_HIGH = 500


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """As :class:`subprocess.Popen`, by a fork where it is one of these programs that is to start."""
    asked = _asked(command, options)
    return subprocess.Popen(command, **options) if asked is None else _Forked(asked, command, **options)


#: :func:`subprocess.run`, and the same by such a start.
executed = subprocess.run
run = types.FunctionType(
    subprocess.run.__code__, {**vars(subprocess), "Popen": start}, "run", subprocess.run.__defaults__
)
run.__kwdefaults__ = subprocess.run.__kwdefaults__


def _asked(command: Sequence[str], options: dict[str, Any]) -> dict[str, Any] | None:
    """What is to be done before it is that program, and its arguments; None of what is something else."""
    if isinstance(command, str):
        return None
    words = list(map(str, command))
    # The network of who asks: a thread may have its own.
    own = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
    asked: dict[str, Any] = {"ends": None, "net": own, "code": ""}
    if words[:2] == ["setpriv", "--pdeathsig"]:
        asked["ends"] = int(signal.Signals[f"SIG{words[2]}"])
        del words[:3]
    if words[:1] == ["nsenter"] and words[1].startswith("--net="):
        asked["net"] = words[1].partition("=")[2]
        del words[:2]
    environment = dict(os.environ if options.get("env") is None else options["env"])
    if words[1:3] == ["-u", "-m"]:
        environment["PYTHONUNBUFFERED"] = words.pop(1)
    if words[:2] == [sys.executable, _FAST_PATH]:
        words.insert(1, "-m")
    if words[:2] == [sys.executable, "-c"] and _BROKERS in words[2] and "sys.modules" not in words[2]:
        asked["code"], words[1:3] = words[2], ["-m", _BROKER]
    if (
        words[:2] != [sys.executable, "-m"]
        or not (words[2] in (_BROKER, *_PACKAGES, _FAST_PATH) or words[2].startswith(_OTHERS))
        or _of_python(environment) != _HERE
        or options.keys() & {"preexec_fn", "shell", "user", "group", "umask"}
    ):
        return None
    asked["cwd"] = str(options.get("cwd") or Path.cwd())
    return {**asked, "module": words[2], "arguments": words[3:], "environment": environment}


def _of_python(environment: Any) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith("PYTHON") and name != "PYTHONUNBUFFERED"
    }


#: What Python goes by in this process; a test may have said something else since.
_HERE = _of_python(os.environ)


class _Forked(subprocess.Popen[Any]):
    def __init__(self, asked: dict[str, Any], command: Sequence[str], **options: Any) -> None:
        self._asked = asked
        self._status = -1
        super().__init__(command, **options)

    def _execute_child(
        self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Sequence[int], cwd: Any,
        env: Any, startupinfo: Any, creationflags: Any, shell: Any, p2cread: int, p2cwrite: int, c2pread: int,
        c2pwrite: int, errread: int, errwrite: int, restore_signals: Any, gid: Any, gids: Any, uid: Any,
        umask: Any, start_new_session: bool, process_group: int = -1,
    ) -> None:  # fmt: skip
        self._status, told = os.pipe()
        try:
            # By their numbers there.
            files = {0: p2cread, 1: c2pwrite, 2: errwrite, **{each: each for each in pass_fds}}
            here = [there if each == -1 else each for there, each in files.items()]
            group = {"session": start_new_session, "group": process_group == 0}
            asked = {**self._asked, **group, "files": list(files)}
            with _ASKING:
                process, ground = _ground()
                socket.send_fds(ground, [json.dumps(asked).encode()], [told, *here])
                answer = ground.recv(64)
            assert answer, f"what programs are forks of has ended: {process.poll()}"
            self.pid = int(answer)
            self._child_created = True
        finally:
            os.close(told)
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                if self.returncode is None and (ended := self._try_wait(os.WNOHANG))[0]:
                    self._handle_exitstatus(ended[1])
            finally:
                self._waitpid_lock.release()
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags == os.WNOHANG and not select.select([self._status], [], [], 0)[0]:
            return 0, 0
        told = os.read(self._status, 64)
        os.close(self._status)
        # Who has nobody any more that could tell was killed with it.
        return self.pid, int(told or signal.SIGKILL)


def end() -> None:
    """What programs were forks of ends with the tests, if there was any."""
    if _ground.cache_info().currsize:
        process, ground = _ground()
        ground.close()
        process.wait()


@lru_cache(1)
def _ground() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """What programs are forks of, and the way to ask it; it ends with this process."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (near, far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST)
    # The words for those who look for brokers among processes.
    command = (sys.executable, __file__, str(far.fileno()), "-m", _BROKER)
    with far:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(far.fileno(),))
    return process, near


# What they are forks of


def _serve(ground: socket.socket) -> Callable[[], NoReturn]:
    """Fork whenever it is asked; returns in what was forked, with what that is to do."""
    waited = select.poll()
    waited.register(ground, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}
    while True:
        for number, _ in waited.poll():
            if number != ground.fileno():
                pid, told = running.pop(number)
                waited.unregister(number)
                os.close(number)
                _, status = os.waitpid(pid, 0)
                with suppress(BrokenPipeError):
                    os.write(told, str(status).encode())
                os.close(told)
                continue
            message, files, _, _ = socket.recv_fds(ground, _LARGEST, 64)
            if not message:
                os._exit(0)
            asked, (told, *here) = json.loads(message), files
            parent = os.getpid()
            pid = os.fork()
            if not pid:
                # What has let go of its descriptor does not close the file that has the number next.
                for each in (ground.detach(), told, *running, *(other for _, other in running.values())):
                    os.close(each)
                _become(asked, here, parent)
                if asked["module"] == _BROKER:
                    return partial(_broker, asked["code"])
                return partial(_module, asked["module"])
            for each in here:
                os.close(each)
            watched = os.pidfd_open(pid)
            running[watched] = pid, told
            waited.register(watched, select.POLLIN)
            ground.send(str(pid).encode())


def _become(asked: dict[str, Any], here: list[int], parent: int) -> None:
    """Be where, and who, it is to be."""
    libc = ctypes.CDLL(None, use_errno=True)
    if asked["session"]:
        os.setsid()
    elif asked["group"]:
        os.setpgid(0, 0)
    high = [fcntl.fcntl(each, fcntl.F_DUPFD, _HIGH) for each in here]
    for each in here:
        os.close(each)
    for each, there in zip(high, asked["files"], strict=True):
        os.dup2(each, there)
        os.close(each)
    if asked["ends"] is not None:
        libc.prctl(_PR_SET_PDEATHSIG, asked["ends"], 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
    space = os.open(asked["net"], os.O_RDONLY)
    elsewhere = os.fstat(space).st_ino != Path("/proc/self/ns/net").stat().st_ino
    if elsewhere and libc.setns(space, _CLONE_NEWNET):
        os._exit(1)
    os.close(space)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [asked["module"], *asked["arguments"]]
    sys.stdin = open(0)  # noqa: SIM115
    through = "PYTHONUNBUFFERED" in os.environ
    sys.stdout = open(1, "w", buffering=1 if through else -1)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115


def _broker(code: str) -> NoReturn:
    """As `python -m tempos_broker` does, or as what alters it before."""
    if code:
        _ended(partial(exec, code, {"__name__": "__main__"}))
    from tempos_broker.__main__ import main
    from tempos_daemon.entry import leave, wait_for_configuration

    wait_for_configuration()
    leave(main())


def _module(name: str) -> NoReturn:
    """As `python -m` does, but that nothing is taken apart at the end."""
    if name == _FAST_PATH:
        _ended(partial(runpy.run_path, name, run_name="__main__"))
    name += ".__main__" if name in _PACKAGES else ""
    sys.modules.pop(name, None)
    _ended(partial(runpy.run_module, name, run_name="__main__", alter_sys=True))


def _ended(run: Callable[[], object]) -> NoReturn:
    """Run a program, and end as Python does."""
    code: object = 0
    try:
        run()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 - told as Python tells what nobody catches
        traceback.print_exc()
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code or 0)


def _read() -> None:
    """Have all been read that they are made of."""
    for name in _READ:
        with suppress(ImportError):
            importlib.import_module(name)
    for folder in _FOLDERS:
        for each in pkgutil.iter_modules(importlib.import_module(folder).__path__, f"{folder}."):
            with suppress(ImportError):
                importlib.import_module(each.name)
    # What was read stays, so nobody need look through it, which would copy it.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    # Ctrl-C is for the tests, and for what they have started.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where this lies are no modules of anybody's.
    sys.path.pop(0)
    _read()
    _serve(socket.socket(fileno=int(sys.argv[1])))()
