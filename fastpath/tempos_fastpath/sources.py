"""Whether the kernel takes packets from a source: asked where only it can tell, by its own input lookup.

An interface with `rp_filter` drops what has no way back by it (strict) or none at all (loose), by whatever
rules and routes there are. The programs put each source that they meet there into the map `sources` and pass
its packets; here the kernel is asked what it would do with them, and the answer is put beside it. Nothing is
forwarded that the kernel was not asked about; until the answer is there, a quarter of a second at most, the
slow path serves. Blocking.
"""

from __future__ import annotations

import logging
import socket
import struct
import sys
from collections.abc import Sequence

from tempos._remarks import Remark
from tempos.errors import one_line
from tempos_bpf.errors import BpfError
from tempos_bpf.maps import Map
from tempos_fastpath.network.netlink import Netlink
from tempos_fastpath.structs import constant

_log = logging.getLogger(__name__)

#: Of which the kernel is asked at a time.
MOST = 512
_KEY = struct.Struct("=I4s")
_ASKED, _TAKEN, _NOT_TAKEN = (
    constant(f"TEMPOS_{name}").to_bytes(4, sys.byteorder) for name in ("ASKED", "TAKEN", "NOT_TAKEN")
)


class Sources:
    """The map, and the kernel's word on what is in it."""

    def __init__(self, table: Map, asked: Map, port: int) -> None:
        self._table = table
        self._asked = asked
        self._port = port
        self._settled = b""
        self._no_answer = Remark(_log, "the kernel is asked of new sources again")
        #: Whether what is known may be outdated; so is what an earlier broker knew.
        self.anew = True

    @property
    def due(self) -> bool:
        """Whether there is something to say: a program has asked since, or all may be otherwise now."""
        return self.anew or self._asked.lookup(0) != self._settled

    def settle(self, listen: Sequence[str]) -> None:
        """Say what is due, as :meth:`answer` does; where the kernel cannot be asked it is due again."""
        anew, self.anew = self.anew, False
        try:
            self.answer(listen, anew=anew)
            self._no_answer.gone()
        except (OSError, BpfError) as error:
            self.anew = True
            self._no_answer(f"new sources take the slow path: the kernel cannot be asked: {one_line(error)}")

    def answer(self, listen: Sequence[str], *, anew: bool = False) -> None:
        """Say of what was asked whether it is taken; ``anew``: of all, for the network has changed.

        ``listen``: the addresses of ours that packets may be for; a source is taken if all of them may get
        it. Raises OSError.
        """
        settled = self._asked.lookup(0) or b""
        found = [(key, value) for key, value in self._table.items() if anew or value == _ASKED]
        with Netlink() as netlink:
            for at in range(0, len(found), MOST):
                some = found[at : at + MOST]
                wanted = [(key, address) for key, _ in some for address in listen]
                told = netlink.takes([(*_place(key), address) for key, address in wanted], port=self._port)
                refused = {key for (key, _), taken in zip(wanted, told, strict=True) if not taken}
                for key, before in some:
                    now = _NOT_TAKEN if key in refused else _TAKEN
                    if now != before:
                        self._table.update(key, now)
        self._settled = settled


def _place(key: bytes) -> tuple[int, str]:
    ifindex, address = _KEY.unpack(key)
    return ifindex, socket.inet_ntoa(address)
