"""Puts a schedule on an interface, or takes it off: the only part of this package that touches the machine.

Rules kept here: what is there is read first, and nothing that is not ours is replaced or removed; when a
command fails, what was done before is undone, and it is checked that all is as it was; every refusal says
what the kernel said, and whether anything was changed.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import shlex
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tempos import LocalError, Unavailable
from tempos.doctor.programs import search_path
from tempos_broker.tsn import lateness, tc, timers
from tempos_broker.tsn.lateness import Lateness
from tempos_broker.tsn.schedule import US, Schedule

#: Seconds; they only talk to the kernel.
PATIENCE = 10.0
#: <linux/sockios.h>, <linux/ethtool.h>.
_SIOCETHTOOL, _ETHTOOL_GSET = 0x8946, 0x1
#: What taprio reckons with where a driver knows no speed, Mbit/s.
_SPEED_OF_NONE = 10


class NotApplied(LocalError):
    """The interface is not as it was asked to be; the text says what was changed, if anything."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended and what it wrote."""

    code: int
    out: str = ""
    err: str = ""


class Runner(Protocol):
    """What is asked of the machine."""

    def run(self, command: Sequence[str]) -> Result:
        """Run a program and give what it said; raises :class:`Unavailable` if there is none of that name."""
        ...

    def speed(self, interface: str) -> int | None:
        """The speed that the driver reports, Mbit/s; None if it knows none."""
        ...

    def lateness(self) -> Lateness | None:
        """How late timers are; None if that cannot be told."""
        ...


class Programs:
    """The programs of this machine."""

    def run(self, command: Sequence[str]) -> Result:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=PATIENCE,
                env={**os.environ, "PATH": search_path()},
            )  # fmt: skip
        except FileNotFoundError:
            raise Unavailable(f"{command[0]} is not installed: it comes with the package iproute2") from None
        except subprocess.TimeoutExpired:
            return Result(-1, err=f"no answer within {PATIENCE:g} s")
        return Result(done.returncode, done.stdout, done.stderr)

    def speed(self, interface: str) -> int | None:
        # struct ethtool_cmd: cmd, supported, advertising, speed (low half), ..., speed (high half) at 28.
        command = array.array("B", _ETHTOOL_GSET.to_bytes(4, sys.byteorder) + bytes(40))
        request = struct.pack("16sP16x", interface.encode(), command.buffer_info()[0])
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
        except OSError:
            return None
        low, high = struct.unpack_from("=H14xH", command, 12)
        speed = int(high << 16 | low)
        return None if speed in (0, 0xFFFF, 0xFFFFFFFF) else speed

    def lateness(self) -> Lateness | None:
        return lateness.measure()


def apply(
    schedule: Schedule, port: tc.Port, runner: Runner, *, anyway: bool = False
) -> tuple[tc.Command, ...]:
    """Put the schedule on its interface; what was run. :class:`NotApplied`: nothing was changed, and why.

    ``anyway``: also one that timers will hardly keep, or that the driver's speed does not fit.
    """
    _fits(schedule, port, runner)
    before = _qdiscs(port, runner)
    root = _root(before)
    if _ours(root):
        raise NotApplied(
            f"{port.interface} has a schedule that was put there before: remove it with --undo --apply, "
            "then apply "
            "this one; nothing was changed"
        )
    if root is not None and root.get("handle") != "0:":
        raise NotApplied(
            f"{port.interface} has the root qdisc {root.get('kind')} {root.get('handle')} that somebody "
            "set up, and "
            f"is left alone: remove it first (tc qdisc del dev {port.interface} root); nothing was changed"
        )
    if not anyway:
        _holds(schedule, port, runner)
    commands = tc.commands(schedule, port)
    done: list[tc.Command] = []
    try:
        for command in commands:
            # From here on it may have had its effect, whatever interrupts; only a refusal says it has not.
            done.append(command)
            result = runner.run(command)
            if result.code > 0:
                done.pop()
            _must(result, command)
        if not _ours(_root(_qdiscs(port, runner))):
            raise NotApplied("the kernel took the commands, but shows no schedule")
    except BaseException as error:
        told = _roll_back(port, before, runner) if done else "nothing was changed"
        if not isinstance(error, LocalError):
            raise
        raise NotApplied(f"{error}; {told}") from error
    return commands


def undo(port: tc.Port, runner: Runner) -> tuple[tc.Command, ...]:
    """Take our schedule off the interface; what was run. Raises :class:`NotApplied` where there is none."""
    root = _root(_qdiscs(port, runner))
    if not _ours(root):
        has = f"its root qdisc is {root.get('kind')} {root.get('handle')}" if root else "it has no root qdisc"
        raise NotApplied(f"{port.interface} has no schedule of tempos, {has}; nothing was changed")
    command = tc.removal(port)
    _must(runner.run(command), command)
    if _ours(_root(_qdiscs(port, runner))):
        raise NotApplied(f"{port.interface} still has the schedule, though `{shlex.join(command)}` succeeded")
    return (command,)


def _fits(schedule: Schedule, port: tc.Port, runner: Runner) -> None:
    """Refuse an interface that the plan was not made for."""
    link = _first(_json(runner, ("ip", "-j", "-d", "link", "show", "dev", port.interface)))
    mtu, queues = link.get("mtu"), link.get("num_tx_queues")
    if isinstance(mtu, int) and mtu > schedule.link.mtu:
        raise NotApplied(
            f"{port.interface} has an MTU of {mtu:,}: frames may be longer than the guard band of this "
            "plan, which "
            f"was made for {schedule.link.mtu:,}; plan with --mtu {mtu}. Nothing was changed"
        )
    needed = 2 if port.mode is tc.Mode.TXTIME else port.queues
    if isinstance(queues, int) and queues < needed:
        raise NotApplied(
            f"{port.interface} has {queues} transmit queue(s), the plan needs {needed}; nothing was changed"
        )


def _holds(schedule: Schedule, port: tc.Port, runner: Runner) -> None:
    """Refuse a schedule that would keep frames from leaving on this machine."""
    told = _not_kept(schedule, port, runner)
    if port.mode is not tc.Mode.OFFLOAD and (slow := _too_slow(schedule, port, runner)):
        told.append(slow)
    if told:
        raise NotApplied(f"{'. And '.join(told)}. With --anyway it is applied as it is; nothing was changed")


def _not_kept(schedule: Schedule, port: tc.Port, runner: Runner) -> list[str]:
    """What timers would hardly keep: an ordinary kernel's, or this very machine's if they are later."""
    found = None if port.mode is tc.Mode.OFFLOAD else runner.lateness()
    late = found.ns if found else timers.LATE
    told = [str(hazard) for hazard in timers.hazards(schedule, port, late)]
    if found and late > timers.LATE and told:
        seen = f"one in a hundred of {found.timers} timers here was more than {late // US:,} us late"
        told[0] = f"{seen}, and {told[0]}"
    return told


def _too_slow(schedule: Schedule, port: tc.Port, runner: Runner) -> str:
    """Why the kernel, which goes by the driver's speed, would think that frames do not fit; empty if not."""
    speed = runner.speed(port.interface)
    reckoned = speed or _SPEED_OF_NONE
    if reckoned >= schedule.link.mbit:
        return ""
    says = f"reports {speed:,} Mbit/s" if speed else f"knows no speed, for which the kernel takes {reckoned}"
    times = f"{schedule.link.mbit / reckoned:,.3g} times"
    return (
        f"the driver of {port.interface} {says}, the plan was made for {schedule.link.mbit:,}: "
        f"the kernel would reckon frames {times} as long, and keep those that do not fit their window; "
        f"plan with --link {reckoned}"
    )


def _roll_back(port: tc.Port, before: list[dict[str, Any]], runner: Runner) -> str:
    """Remove what is ours and see whether all is as before; what came of it, in words."""
    try:
        if not _ours(_root(_qdiscs(port, runner))):
            return "nothing was changed"
        removal = tc.removal(port)
        _must(runner.run(removal), removal)
        after = _qdiscs(port, runner)
    except LocalError as error:
        return f"and it could not be undone ({error}): run `{shlex.join(tc.removal(port))}`"
    if _shape(after) != _shape(before):
        return (
            "what was done before that was undone, but the qdiscs are not as they were: see "
            f"`tc qdisc show dev {port.interface}`"
        )
    return "what was done before that was undone"


def _must(result: Result, command: Sequence[str]) -> None:
    if result.code:
        said = " ".join((result.err or result.out).split()) or f"exit code {result.code}"
        raise NotApplied(f"`{shlex.join(command)}` failed: {said}{_hint(said)}")


def _hint(said: str) -> str:
    if "kind is unknown" in said:
        return " (this kernel has no such qdisc: CONFIG_NET_SCH_TAPRIO, CONFIG_NET_SCH_ETF)"
    return ""


def _qdiscs(port: tc.Port, runner: Runner) -> list[dict[str, Any]]:
    return _json(runner, ("tc", "-j", "qdisc", "show", "dev", port.interface))


def _json(runner: Runner, command: Sequence[str]) -> list[dict[str, Any]]:
    result = runner.run(command)
    _must(result, command)
    try:
        found = json.loads(result.out or "[]")
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise NotApplied(
            f"`{shlex.join(command)}` says something that cannot be understood: {result.out[:80]!r}"
        )
    return found


def _first(found: list[dict[str, Any]]) -> dict[str, Any]:
    # `ip -j` leaves empty objects where an entry was filtered out.
    return next((each for each in found if each), {})


def _root(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((each for each in found if each.get("root")), None)


def _ours(root: dict[str, Any] | None) -> bool:
    return root is not None and (root.get("kind"), root.get("handle")) == ("taprio", tc.HANDLE)


def _shape(found: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """What must be as before; counts and references may differ."""
    return sorted((str(e.get("kind")), str(e.get("handle")), str(e.get("parent", "root"))) for e in found)
