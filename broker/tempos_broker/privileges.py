"""What the broker may do beyond an ordinary program, and how it gives that up.

    narrow()   first of all: before a thread runs, a socket is bound, a program loaded
    finish()   once everything stands: what only the start needed goes, too

Rules kept here:

* Capabilities belong to threads, and a thread has those of the one that made it. So most go before there
  is a second one, and at the end every thread is made to give up the rest, those of libraries, too.
  :func:`state` looks at all threads and tells the most that any has.
* With a fast path the kernel goes on asking for ``CAP_BPF`` and ``CAP_PERFMON`` (routes are maps that are
  made and swapped, and programs are loaded again where an interface comes back) and ``CAP_NET_ADMIN``
  (attaching them, resolving neighbours). Without one nothing is kept.
* Nothing comes back: the bounding set is cut down, ambient capabilities are cleared, and
  ``no_new_privs`` keeps set-uid programs from giving any.
* ``CAP_SYS_NICE`` goes once the worker for strict events has real time, if the one that would replace it can
  have that by a limit (:mod:`.scheduling`); where that limit was not to be raised, it stays for that.
* Root without capabilities still owns its files: pins under /sys/fs/bpf and the state file can be written
  and removed. Another user is given what is the broker's own before the change (:mod:`.belongings`), and what
  only root can read, and will be read again, is read by another process (:mod:`.reader`).
* Whoever started without privileges loses nothing and needs nothing. Where the kernel refuses, the start
  fails with the reason: it is never believed to have happened.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tempos import Unavailable

# <linux/capability.h>
CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip
#: What a fast path needs for as long as it serves.
FAST_PATH = frozenset({"bpf", "perfmon", "net_admin"})
#: What only the start needs: socket buffers beyond net.core.rmem_max, ports below 1024, raw sockets (packets
#: that come back, datagrams that keep their source); with a fast path also to look at maps and programs by
#: their numbers, which is how what is there already is adopted.
START = frozenset({"net_admin", "net_bind_service", "net_raw"})
START_FAST_PATH = FAST_PATH | START | {"sys_admin"}

#: What it takes to give a worker SCHED_FIFO where no limit allows it.
WORKER = frozenset({"sys_nice"})

# <linux/prctl.h>
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_LINUX_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True)
class Privileges:
    """What this process may do. ``capabilities``: the most that any of its threads has, by name, sorted.

    ``no_new_privs``: it can never get more. ``reason``: the same in words.
    """

    user: str
    uid: int
    capabilities: tuple[str, ...]
    no_new_privs: bool
    reason: str


@dataclass(frozen=True, slots=True)
class User:
    """Somebody that this machine knows."""

    name: str
    uid: int
    gid: int
    home: str


def user_to_be(name: str) -> User | None:
    """Who root is to become by ``broker.user``: itself if it is empty; None where this process is not root.

    Raises :class:`Unavailable` for a user that there is not.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        return None
    import pwd

    try:
        entry = pwd.getpwnam(name) if name else pwd.getpwuid(0)
    except KeyError:
        if not name:
            return User("root", 0, 0, "/")
        raise Unavailable(f"broker.user is {name!r}, but this machine has no user of that name") from None
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)


def narrow(*, fast_path: bool, user: str = "", worker: bool = False) -> Privileges:
    """Give up what not even the start needs; call it before there is a second thread.

    ``user``: who to become, if root. ``worker``: a process of its own is to be given real time. Raises
    :class:`Unavailable` if the user cannot be had or the kernel refuses.
    """
    if sys.platform != "linux":
        return state()
    # The end needs it, when the user may no longer read where it lies.
    _compiled()
    become = user_to_be(user)
    if become is not None and become.uid:
        _become(become)
    elif user and user != _user_name(os.geteuid()):
        raise Unavailable(
            f"cannot become {user!r} as set in broker.user: only root can; start the broker as {user!r}, "
            'or set broker.user to ""'
        )
    kept = START_FAST_PATH if fast_path else START
    _keep(kept | (WORKER if worker else frozenset()))
    return state()


def drop() -> None:
    """Give up everything; call it before there is a second thread. Raises :class:`Unavailable`."""
    if sys.platform == "linux":
        _keep(())


def keep_reading() -> None:
    """Give up everything but to read whatever there is; call it before there is a second thread."""
    _keep(("dac_read_search",))


def require_readable() -> None:
    """Raise :class:`Unavailable` if this process cannot read its own programs: many are loaded late."""
    for path in (os.__file__, __file__):
        if not os.access(path, os.R_OK):
            raise Unavailable(
                f"{_user_name(os.geteuid())!r} cannot read {path}: install Python and tempos where that user "
                "can, or set broker.user to another one"
            )


def finish(*, fast_path: bool, worker: bool = False) -> Privileges:
    """Give up what only the start needed, in all threads. ``fast_path``: whether one serves.

    ``worker``: it takes a capability to give real time to the next worker for strict events. Raises
    :class:`Unavailable` if the kernel refuses this thread; what other threads have is told.
    """
    if sys.platform == "linux":
        names = (FAST_PATH if fast_path else frozenset[str]()) | (WORKER if worker else frozenset[str]())
        _keep(names)
        if (lib := _compiled()) is not None:
            lib.tempos_threads_keep(_mask(names))
    return state()


def state() -> Privileges:
    """What this process may do now."""
    uid = os.geteuid() if hasattr(os, "geteuid") else -1
    name = _user_name(uid)
    if sys.platform != "linux":
        return Privileges(name, uid, (), False, f"not looked at on {sys.platform}")
    has, locked = 0, True
    for status in Path("/proc/self/task").glob("*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue  # this thread has just ended
        has |= int(fields["CapEff"], 16) | int(fields["CapPrm"], 16)
        locked = locked and fields.get("NoNewPrivs", "0").strip() == "1"
    capabilities = _names(has)
    what = (
        ", ".join(f"CAP_{each.upper()}" for each in capabilities) if len(capabilities) < 8 else "nearly all"
    )
    reason = f"{name}, {f'with {what}' if what else 'without any capability'}"
    return Privileges(name, uid, capabilities, locked, reason + ("" if locked else "; could get more"))


def describe() -> dict[str, Any]:
    """:func:`state` as JSON values, for the status."""
    return {**asdict(now := state()), "capabilities": list(now.capabilities)}


def _compiled() -> Any:
    """What reaches the other threads. None: only this one can; what others are left with, state() tells."""
    try:
        from tempos_broker._batch import lib
    except ImportError:
        return None
    return lib


def _keep(names: Iterable[str]) -> None:
    """Make these, as far as they are there, all that this thread has and can ever get."""
    libc = _libc()
    wanted = _mask(names)
    header = _Header(_LINUX_CAPABILITY_VERSION_3, 0)
    data = (_Data * 2)()
    _check(libc.capget(ctypes.byref(header), data), "capget")
    permitted = data[0].permitted | data[1].permitted << 32
    # After a change of user all are there, but none is in effect.
    for half in range(2):
        data[half].effective = data[half].permitted
    _check(libc.capset(ctypes.byref(header), data), "capset")
    if permitted & _mask(["setpcap"]):
        # A kernel may know more capabilities than this table, and refuses the first it does not know.
        for number in range(64):
            if not wanted >> number & 1 and libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1:
                _check(libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), "PR_CAPBSET_DROP")
    # Kernels before 4.3 have no ambient capabilities to clear.
    _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "PR_CAP_AMBIENT", (errno.EINVAL,))
    kept = permitted & wanted
    for half in range(2):
        word = kept >> 32 * half & 0xFFFFFFFF
        data[half].effective, data[half].permitted, data[half].inheritable = word, word, 0
    _check(libc.capset(ctypes.byref(header), data), "capset")
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


def _become(user: User) -> None:
    try:
        _check(_libc().prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "PR_SET_KEEPCAPS")
        os.setgroups([])
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        raise Unavailable(f"cannot become {user.name!r} as set in broker.user: {error}") from error
    # What is root's, and not to be looked for any more.
    os.environ.pop("XDG_RUNTIME_DIR", None)
    os.environ.update(HOME=user.home, USER=user.name, LOGNAME=user.name)


def _mask(names: Iterable[str]) -> int:
    return sum(1 << CAPABILITIES.index(name) for name in set(names))


def _names(mask: int) -> tuple[str, ...]:
    known = [name for number, name in enumerate(CAPABILITIES) if mask >> number & 1]
    beyond = [f"{number}" for number in range(len(CAPABILITIES), 64) if mask >> number & 1]
    return tuple(sorted(known)) + tuple(beyond)


def _user_name(uid: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return str(uid)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str, harmless: Sequence[int] = ()) -> None:
    if result < 0 and (number := ctypes.get_errno()) not in harmless:
        raise Unavailable(f"cannot drop privileges: {what}: {os.strerror(number)}")
