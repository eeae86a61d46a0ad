"""What of this host matters to a broker and its clients: clocks, buffers, pauses, room, ports, rules, cards.

Read from /proc, /sys and the cards themselves (ethtool's ioctl); nothing is changed. The pauses are measured,
for a fraction of a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tempos.doctor.findings import Area, Asked, Check, Severity, Tried
from tempos.doctor.programs import located
from tempos.errors import one_line

#: What `limits.receive_buffer` asks for by default, bytes.
RECEIVE_BUFFER = 8 * 1024 * 1024
#: Room that state and counters need to grow, bytes.
ROOM = 64 * 1024 * 1024
#: Seconds to look for pauses, and the shortest that is told.
LOOKED, PAUSE = 0.3, 0.002
_STA_UNSYNC = 0x0040
_TIMEX = 208
_SIOCGIFFLAGS, _SIOCGIFMTU = 0x8913, 0x8921
_SIOCETHTOOL = 0x8946
_UDP_SEGMENT, _UDP_GRO = 103, 104
#: Bytes of an event on trial; seconds that it may take over loopback.
_PIECE, _SOON = 8, 1.0
_GRINGPARAM, _GFLAGS = 0x10, 0x25
_RXVLAN, _LRO = 1 << 8, 1 << 15
_NET = Path("/sys/class/net")
_CONF = Path("/proc/sys/net/ipv4/conf")


def gather(asked: Asked) -> Iterator[Tried]:
    """Look at the host, then at each interface that is asked for, or all that are up."""
    if sys.platform != "linux":
        return
    yield from _buffers()
    yield from _segmentation()
    yield _clock()
    yield _pauses()
    yield _room(asked)
    yield from _ports(asked)
    yield from _rules()
    yield from _neighbours()
    listed = sysfs_is_of_here()
    for name in asked.interfaces or _up():
        if _asked_of(name, _SIOCGIFFLAGS) is not None:
            yield from _interface(name, listed)


def _buffers() -> Iterator[Tried]:
    with contextlib.suppress(OSError, ValueError):
        most = int(Path("/proc/sys/net/core/rmem_max").read_text())
        cause = f"net.core.rmem_max is {most:,} bytes"
        yield Tried("TD501", most >= RECEIVE_BUFFER, cause)


def _segmentation() -> Iterator[Tried]:
    """Three events in one buffer over loopback: cut up for one socket, whole for another."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        for subject, asked, option, wanted in (
            ("sending", sender, _UDP_SEGMENT, 3),
            ("receiving", receiver, _UDP_GRO, 1),
        ):
            try:
                asked.setsockopt(socket.IPPROTO_UDP, option, _PIECE)
                came = _came(sender, receiver)
            except OSError as error:
                yield Tried("TD508", False, one_line(error), subject)
                # The other one rests on this.
                return
            yield Tried("TD508", came == wanted, f"three events in one buffer came as {came}", subject)


def _came(sender: socket.socket, receiver: socket.socket) -> int:
    """In how many pieces three come that are sent as one."""
    if receiver.getsockname()[1] == 0:
        receiver.bind(("127.0.0.1", 0))
    receiver.settimeout(_SOON)
    sender.sendto(bytes(3 * _PIECE), receiver.getsockname())
    pieces = length = 0
    while length < 3 * _PIECE:
        length += len(receiver.recv(4 * _PIECE))
        pieces += 1
    return pieces


def _clock() -> Tried:
    """Whether the kernel's clock is kept by somebody (adjtimex(2))."""
    timex = ctypes.create_string_buffer(_TIMEX)
    try:
        ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    except (OSError, AttributeError) as error:
        return Tried("TD502", None, one_line(error))
    (status,) = struct.unpack_from("i", timex, 40)
    off = bool(status & _STA_UNSYNC)
    return Tried("TD502", not off, "nobody keeps the clock" if off else "the clock is kept by NTP or PTP")


def _pauses() -> Tried:
    """The longest time in which this process, which never waits, did not run."""
    end, last, longest = time.perf_counter() + LOOKED, time.perf_counter(), 0.0
    while last < end:
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    cause = f"a process that never waits stood still for {longest * 1e3:.1f} ms, of {LOOKED:g} s looked at"
    return Tried("TD503", longest < PAUSE, cause)


def _room(asked: Asked) -> Tried:
    """Where a broker's state goes: whether there is room, and whether this user may write there."""
    if asked.state == "off":
        return Tried("TD504", True, "no state is kept")
    root = os.geteuid() == 0
    usual = Path("/run/tempos") if root else Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp", "tempos")  # noqa: S108
    place = Path(asked.state).absolute().parent if asked.state else usual
    there = next(each for each in (place, *place.parents) if each.exists())
    try:
        disk = os.statvfs(there)
    except OSError as error:
        return Tried("TD504", None, one_line(error), str(place))
    free = disk.f_bavail * disk.f_frsize
    if not os.access(there, os.W_OK):
        return Tried("TD504", False, f"{there} is not for this user to write into", str(place))
    fix = f"df -h {there}" if free < ROOM else ""
    return Tried("TD504", free >= ROOM, f"{free >> 20:,} MB free", str(place), fix=fix)


def _ports(asked: Asked) -> Iterator[Tried]:
    """The UDP ports of a configuration: free, or who has them."""
    for port in asked.ports:
        address = asked.listen[0] if asked.listen else ""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    holder = _holder(port)
                    yield Tried("TD505", "tempos" in holder or None, holder or "somebody's", str(port))
                continue
        yield Tried("TD505", True, "free", str(port))


def _holder(port: int) -> str:
    """The process with a UDP socket at the port, as far as this user may see it."""
    inodes = set()
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(each.readlink()) in inodes for each in (process / "fd").iterdir()):
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                return f"process {process.name}: {line.strip() if len(line) <= 80 else line[:79] + '…'}"
    return ""


def _rules() -> Iterator[Tried]:
    """Rules of the host's firewall on what comes in, which the fast path does not pass."""
    if (tool := located("nft")) is None or os.geteuid() != 0:
        return
    try:
        done = subprocess.run(
            [tool, "-j", "list", "ruleset"], capture_output=True, text=True, timeout=10, check=True
        )
        items = json.loads(done.stdout)["nftables"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        yield Tried("TD506", None, one_line(error))
        return
    hooked = {
        (each["chain"]["table"], each["chain"]["name"]): each["chain"].get("policy", "accept")
        for each in items
        if each.get("chain", {}).get("hook") in ("input", "prerouting")
    }
    ruled = {
        (each["rule"]["table"], each["rule"]["chain"])
        for each in items
        if "rule" in each and (each["rule"]["table"], each["rule"]["chain"]) in hooked
    }
    found = sorted(f"{table} {chain}" for (table, chain), policy in hooked.items()
                   if policy != "accept" or (table, chain) in ruled)  # fmt: skip
    yield Tried("TD506", not found, f"chains: {', '.join(found)}" if found else "no rules on what comes in")


def _neighbours() -> Iterator[Tried]:
    with contextlib.suppress(OSError):
        rows = [line.split() for line in Path("/proc/net/arp").read_text().splitlines()[1:]]
        silent = [f"{row[0]} on {row[5]}" for row in rows if int(row[2], 16) & 0x2 == 0]
        yield Tried("TD507", not silent, f"no MAC address of {', '.join(silent[:8])}" if silent else
                    f"{len(rows)} neighbours, all with a MAC address")  # fmt: skip


def sysfs_is_of_here() -> bool:
    """Whether /sys shows the interfaces of this network namespace; after `nsenter --net` it shows others."""
    shown = {}
    for each in _NET.glob("*"):
        with contextlib.suppress(OSError, ValueError):
            shown[each.name] = int((each / "ifindex").read_text())
    return shown == {name: index for index, name in socket.if_nameindex()}


def _up() -> list[str]:
    names = sorted(name for _, name in socket.if_nameindex())
    return [name for name in names if name != "lo" and (_asked_of(name, _SIOCGIFFLAGS) or 0) & 1]


def _interface(name: str, listed: bool) -> Iterator[Tried]:
    mtu = _asked_of(name, _SIOCGIFMTU)
    if mtu is not None:
        yield Tried("TD511", mtu >= 1500, f"MTU {mtu}", name)
    if (ring := _ethtool(name, _GRINGPARAM, "8I")) is not None and ring[0]:
        fix = f"ethtool -G {name} rx {ring[0]}"
        yield Tried("TD512", ring[4] >= ring[0], f"{ring[4]} of {ring[0]} receive descriptors", name, fix=fix)
    if listed:
        queues = len(list((_NET / name / "queues").glob("rx-*")))
        spread = any(_spread(each) for each in (_NET / name / "queues").glob("rx-*/rps_cpus"))
        several = queues > 1 or spread or (os.cpu_count() or 1) == 1 or not (_NET / name / "device").exists()
        yield Tried("TD513", several, f"{queues} receive queue{'' if queues == 1 else 's'}", name,
                    fix=f"ethtool -L {name} combined {os.cpu_count()}")  # fmt: skip
    with contextlib.suppress(OSError, ValueError):
        strict = max(int((_CONF / each / "rp_filter").read_text()) for each in ("all", name))
        words = {0: "off", 1: "strict", 2: "loose"}.get(strict, str(strict))
        one_way = strict != 1 or len(_up()) < 2
        yield Tried("TD514", one_way, f"rp_filter is {words}", name,
                    fix=f"sysctl -w net.ipv4.conf.{name}.rp_filter=2")  # fmt: skip
    if (flags := _ethtool(name, _GFLAGS, "I")) is not None:
        lro, vlan = bool(flags[0] & _LRO), bool(flags[0] & _RXVLAN)
        yield Tried(
            "TD515", not lro, f"LRO is {'on' if lro else 'off'}", name, fix=f"ethtool -K {name} lro off"
        )
        hidden = vlan and listed and (_NET / name / "device").exists()
        yield Tried("TD516", not hidden, f"VLAN offload is {'on' if vlan else 'off'}", name,
                    fix=f"ethtool -K {name} rxvlan off")  # fmt: skip


def _spread(mask: Path) -> bool:
    with contextlib.suppress(OSError):
        return bool(mask.read_text().strip("0,\n"))
    return False


def _asked_of(name: str, order: int) -> int | None:
    """Flags or MTU of an interface; None if there is none of that name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, order, struct.pack("16s24x", name.encode()[:15]))
        except OSError:
            return None
    value: int = struct.unpack_from("H" if order == _SIOCGIFFLAGS else "i", answer, 16)[0]
    return value


def _ethtool(name: str, order: int, layout: str) -> tuple[int, ...] | None:
    """What a card answers to a reading order; None if it has no answer."""
    value = ctypes.create_string_buffer(struct.pack("I", order), 4 + struct.calcsize(layout))
    request = struct.pack("16sP16x", name.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
        except OSError:
            return None
    return struct.unpack_from(layout, value, 4)


_NOTE = Severity.NOTE
HOST = Area(
    "host",
    (
        Check("TD501", "socket buffers", _NOTE, means="bursts are lost before the broker reads them",
              fix=f"sysctl -w net.core.rmem_max={RECEIVE_BUFFER}"),
        Check("TD502", "clock", _NOTE, means="latency between hosts means nothing",
              fix="apt-get install chrony"),
        Check("TD503", "pauses", _NOTE, means="so late may an event of the slow path be",
              fix="tempos observe pauses"),
        Check("TD504", "state folder", Severity.WARNING, means="what is to survive a restart cannot be kept"),
        Check("TD505", "port", Severity.WARNING, means="a broker of this configuration does not start"),
        Check("TD506", "firewall rules", _NOTE, means="the fast path does not pass them: use `sources`"),
        Check("TD507", "neighbours", _NOTE, means="members there are left out until they answer",
              fix="ip neigh"),
        Check("TD508", "UDP segmentation", _NOTE, means="each event goes through the kernel by itself"),
        Check("TD511", "MTU", _NOTE, means="events are smaller than elsewhere, or refused"),
        Check("TD512", "receive ring", _NOTE, means="bursts are lost in the card"),
        Check("TD513", "receive queues", _NOTE, means="one CPU does the kernel's part of all that comes in"),
        Check("TD514", "rp_filter", _NOTE, means="events that come in by another way than back are dropped"),
        Check("TD515", "no LRO", _NOTE, means="many drivers have no native mode with it"),
        Check("TD516", "VLAN tags are left in", _NOTE, means="in native mode a tag cannot be seen"),
    ),
    lambda asked: tuple(gather(asked)),
)  # fmt: skip
