"""A schedule as the commands of iproute2: tc-taprio(8), tc-etf(8), tc-stab(8).

Rules kept here: the root qdisc is added, never replaced, so the kernel itself refuses where somebody has
set one up; it bears a handle of ours, by which it is known again; ``stab overhead`` makes the kernel count
what the arithmetic counts.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tempos_broker.tsn.schedule import TC_BQ, TC_SQ, Schedule
from tempos_broker.tsn.wire import NOT_COUNTED

#: The handle of the root qdisc that `tempos tsn plan` makes; the kernel gives 8000: and above by itself.
HANDLE = "7e50:"
#: SO_PRIORITY values that taprio maps to traffic classes (TC_BITMASK of linux/pkt_sched.h, plus 1).
PRIORITIES = 16
Command = tuple[str, ...]


class Mode(enum.Enum):
    """Who opens the gates: the kernel's timer, launch times for etf to keep, or the network card."""

    SOFTWARE = "software"
    TXTIME = "txtime"
    OFFLOAD = "offload"


#: TCA_TAPRIO_ATTR_FLAG_TXTIME_ASSIST and _FULL_OFFLOAD of linux/pkt_sched.h.
FLAGS = {Mode.TXTIME: "0x1", Mode.OFFLOAD: "0x2"}


@dataclass(frozen=True, slots=True)
class Port:
    """The interface and how the schedule is put on it.

    ``queues``: transmit queues to share out, the last for SQ; in txtime mode everything takes queue 0.
    ``base_time``: ns of ``clock``. ``delta``: ns before its launch time that etf takes a frame up.
    """

    interface: str
    so_priority_sq: int
    so_priority_bq: int
    mode: Mode = Mode.SOFTWARE
    queues: int = 2
    clock: str = "CLOCK_TAI"
    base_time: int = 0
    delta: int = 0

    @property
    def classes(self) -> tuple[int, ...]:
        """The traffic class of each SO_PRIORITY. What is not SQ's goes with BQ."""
        return tuple(TC_SQ if each == self.so_priority_sq else TC_BQ for each in range(PRIORITIES))

    @property
    def ranges(self) -> tuple[str, str]:
        """The transmit queues of BQ and of SQ, ``count@offset``."""
        if self.mode is Mode.TXTIME:
            return "1@0", "1@0"
        return f"{self.queues - 1}@0", f"1@{self.queues - 1}"


def commands(schedule: Schedule, port: Port) -> tuple[Command, ...]:
    """What puts the schedule on the interface, in order."""
    root: list[str] = ["tc", "qdisc", "add", "dev", port.interface, "root", "handle", HANDLE]
    root += ["stab", "overhead", str(NOT_COUNTED), "taprio", "num_tc", "2"]
    root += ["map", *map(str, port.classes), "queues", *port.ranges]
    root += ["base-time", str(port.base_time)]
    for window in schedule.windows:
        root += ["sched-entry", "S", f"{window.gates:02x}", str(window.length)]
    if port.mode in FLAGS:
        root += ["flags", FLAGS[port.mode]]
    if port.mode is Mode.OFFLOAD:
        # The clock is the network card's own; the kernel refuses the name of another.
        return (tuple(root),)
    if port.mode is Mode.TXTIME:
        root += ["txtime-delay", str(txtime_delay(schedule, port))]
    root += ["clockid", port.clock]
    if port.mode is Mode.SOFTWARE:
        return (tuple(root),)
    etf = ["tc", "qdisc", "replace", "dev", port.interface, "parent", f"{HANDLE}1", "etf"]
    etf += ["clockid", port.clock, "delta", str(port.delta), "skip_sock_check"]
    return tuple(root), tuple(etf)


def removal(port: Port) -> Command:
    """What takes it off again, with everything below it; the interface then has its default qdisc."""
    return ("tc", "qdisc", "del", "dev", port.interface, "root", "handle", HANDLE)


def txtime_delay(schedule: Schedule, port: Port) -> int:
    """How far ahead taprio sets the launch time of a frame, ns: etf's delta, and one frame before it."""
    return port.delta + schedule.link.ns(schedule.link.largest)
