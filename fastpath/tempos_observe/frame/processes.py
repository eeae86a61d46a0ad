"""Which processes are watched: those that were named, or the broker with its worker, and the invokers.

Looks into /proc. What a watched process starts later is added by the kernel's side.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from tempos import LocalError
from tempos_bpf.objects import BpfObject
from tempos_observe.wishes import Wishes

_PROC = Path("/proc")
#: The number that the kernel gives its first namespace of processes.
_FIRST_NAMESPACE = "pid:[4026531836]"
_COMMANDS = frozenset({"broker", "invoker"})
_MODULES = frozenset({"tempos_broker", "tempos_invoker"})
_WATCHED = "watched"


def check(wishes: Wishes) -> None:
    """Raises :class:`LocalError` where a process that was asked for is none, or is not to be told apart."""
    if not wishes.pids and not wishes.broker:
        return
    if not sees_all_processes():
        raise LocalError(
            "--pid and --broker need the machine's own process ids, and here is a container's; use --comm"
        )
    for pid in sorted(wishes.pids):
        try:
            status = (_PROC / str(pid) / "status").read_text()
        except OSError:
            raise LocalError(f"there is no process {pid}") from None
        group = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Tgid:"))
        if group != pid:
            raise LocalError(f"{pid} is a thread of the process {group}; use --pid {group}")
    if wishes.broker and not roots():
        raise LocalError("no broker and no invoker runs here")


def sees_all_processes() -> bool:
    """Whether ids of processes are here what they are to the kernel."""
    with contextlib.suppress(OSError):
        return (_PROC / "self" / "ns" / "pid").readlink().name == _FIRST_NAMESPACE
    return False


def several(wishes: Wishes) -> bool:
    """Whether it takes a list to say who is meant."""
    return wishes.broker or len(wishes.pids) > 1


def fill(loaded: BpfObject, wishes: Wishes) -> None:
    """Put those who are meant into the list that the programs look at."""
    watched = loaded.map(_WATCHED)
    known: set[int] = set()
    # Until nobody new turns up: what is started meanwhile by one who is in the list comes in by itself.
    while fresh := (_meant(wishes) - known):
        for pid in fresh:
            watched.update(pid, b"\x01")
        known |= fresh


def _meant(wishes: Wishes) -> set[int]:
    if not wishes.broker:
        return set(wishes.pids)
    return set(wishes.pids) | set(roots()) | set(_below(roots()))


def roots() -> tuple[int, ...]:
    """The brokers and invokers of this machine."""
    return tuple(pid for pid in _pids() if _is_ours(_arguments(pid)))


def _is_ours(arguments: list[str]) -> bool:
    for word, after in itertools.pairwise(arguments):
        if word.rpartition("/")[2] == "tempos" and after in _COMMANDS:
            return True
        if word == "-m" and after.partition(".")[0] in _MODULES:
            return True
    return False


def _below(parents: tuple[int, ...]) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for pid in _pids():
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name in brackets may hold anything, blanks and brackets too.
            parent = int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(pid)
    waiting = [*parents]
    while waiting:
        found = children.pop(waiting.pop(), [])
        waiting += found
        yield from found


def _pids() -> Iterator[int]:
    return (int(each.name) for each in _PROC.iterdir() if each.name.isdigit())


def _arguments(pid: int) -> list[str]:
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [word.decode(errors="replace") for word in raw.split(b"\0")[:-1]]
