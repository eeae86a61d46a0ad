"""What the kernel lost before or behind the broker: counted in the core, told sparingly in the log."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

from tempos import REASON_TEXTS, Quality, Reason
from tempos._remarks import Sparingly
from tempos.wire import IP_UDP_OVERHEAD
from tempos_broker.addresses import mtu_towards
from tempos_broker.slowpath.core import SlowPath
from tempos_broker.slowpath.sockets import DataSocket

logger = logging.getLogger(__name__)

#: What the kernel may mean by an error: it says the same of an address that a member asked and that is gone.
_GONE = "the address that its events leave from is gone"
_MEANINGS = {
    errno.EINVAL: f" (a blackhole route to a member, or {_GONE})",
    errno.ENETUNREACH: f" (no route to a member, or {_GONE})",
    errno.EHOSTUNREACH: " (nobody answers at a member's address, or its gateway's: the status says which is "
    "left out; or there is an unreachable route to it)",
    errno.EACCES: " (a route to a member forbids it: prohibit)",
}


class Losses:
    """Books losses. ``now``: a monotonic clock in seconds."""

    def __init__(self, core: SlowPath[Any], now: Callable[[], float]) -> None:
        self._core = core
        #: Datagrams lost unread since the start, by the class whose socket they were in front of.
        self.overrun = dict.fromkeys(Quality, 0)
        #: Those that came when nothing was let in any more.
        self.away = dict.fromkeys(Quality, 0)
        self._log = Sparingly(logger, now)

    def overruns(self, sockets: Iterable[tuple[Quality, DataSocket]]) -> None:
        """Book what was dropped in front of the sockets of these classes since the last look."""
        for quality, each in sockets:
            count = each.overruns()
            if count:
                self._core.overrun(count)
                self.overrun[quality] += count
                size = each.receive_buffer
                self._log.warn(
                    f"overrun {quality.value} {each}",
                    f"{count} datagrams lost in front of {each} ({quality.value}): its buffer of {size} "
                    "bytes was full; raise limits.receive_buffer, and without CAP_NET_ADMIN also the "
                    f"kernel's limit: `sysctl -w net.core.rmem_max={2 * size}`",
                )

    def turned_away(self, sockets: Iterable[tuple[Quality, DataSocket]]) -> None:
        """Tell about what came to sockets that let nothing in any more."""
        for quality, each in sockets:
            if count := each.overruns():
                self.away[quality] += count
                logger.warning(
                    "%d datagrams turned away by %s", count,
                    f"{each} ({quality.value}): they came while the broker stopped",
                )  # fmt: skip

    def foreign(self, topic: int, count: int, ip: str) -> None:
        """Tell about ``count`` events that the core has counted as refused for their source."""
        self._log.warn(
            f"foreign {topic}",
            f"{count} events of topic {topic} refused, the last from {ip}: "
            f"{REASON_TEXTS[Reason.FOREIGN_SOURCE]}",
        )

    def send_failed(
        self, topic: int, epoch: int, group: int, count: int, error: int,
        ip: str = "", port: int = 0, size: int = 0,
    ) -> None:  # fmt: skip
        """Book ``count`` copies that the kernel refused to send with this errno, the last to this member."""
        self._core.send_failed(topic, epoch, group, count)
        to = f" (the last to {ip}:{port})" if ip else ""
        why = f"cannot send: {os.strerror(error)}{_MEANINGS.get(error, '')}"
        if error == errno.EMSGSIZE and ip:
            mtu = mtu_towards((ip, None))
            takes = f", whose way takes {mtu} (MTU)" if mtu else ""
            whole = size + IP_UDP_OVERHEAD
            to, why = "", f"{whole} bytes, headers included, are too many for {ip}:{port}{takes}"
        self._log.warn(
            f"send {topic} {error}", f"{count} events of topic {topic} lost to its group {group}{to}: {why}"
        )

    def socket_error(self, address: object, error: OSError) -> None:
        """Tell about an error of a socket that concerns no datagram in particular."""
        self._log.warn(f"socket {address} {error.errno}", f"data socket {address}: {error}")
