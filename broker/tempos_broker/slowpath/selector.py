"""Which of the two sockets of the data port a datagram goes to: decided in the kernel, by its topic's id.

Three ways, of which ``auto`` takes the first that is to be had: ``ebpf`` (the fast path's program, which
reads the same table of topics as XDP does), ``classic`` (a classic BPF program that is generated here and
needs no privilege), ``one`` (one socket; the classes part behind it, in the queues).

The kernel numbers the sockets of a port in the order of their binding: 0 is best effort's, 1 strict's. What
is empty or names no topic is best effort's, whoever sends it. Whatever the selection says, the core goes by
the topic again: a datagram that was sorted by an older table is served in its class all the same.

Classic BPF sees the datagram from its payload on; a load beyond its end ends the program with 0
(net/core/sock_reuseport.c, run_bpf_filter; Documentation/networking/filter.rst).
"""

from __future__ import annotations

import ctypes
import logging
import socket
import struct
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tempos import Quality, Topic, Unavailable
from tempos._abi import NARROW, WIDE
from tempos._remarks import Remark
from tempos.errors import one_line
from tempos_broker.slowpath.sockets import Pair, join_all, split_all

log = logging.getLogger(__name__)

_SO_ATTACH_REUSEPORT_CBPF = 51
#: struct sock_filter: code, jump if true, jump if false, operand.
_INSTRUCTION = struct.Struct("=HBBI")
#: struct sock_fprog: how many instructions, and where they are.
_PROGRAM = struct.Struct("@HP")

# <linux/bpf_common.h>, as far as it is needed here: class | size or operation | mode or source.
LOAD_BYTE = 0x30  # A = payload[k]
LOAD_TWO = 0x28  # A = payload[k] and the one behind it, network byte order
SKIP = 0x05  # go k further
SKIP_IF_LESS = 0x35  # if A < k, go jump_false further
RETURN = 0x06  # return k
#: BPF_MAXINSNS: longer programs the kernel does not take.
LONGEST = 4096
#: As far as a conditional jump goes.
_FAR = 255

#: Attaches the fast path's program to two sockets, strict and best effort; raises :class:`Unavailable`.
Select = Callable[[int, int], None]


class Instruction(NamedTuple):
    """One of a classic BPF program."""

    code: int
    jump_true: int
    jump_false: int
    operand: int


@dataclass(frozen=True, slots=True)
class Selection:
    """How the classes are told apart at the sockets, and why so: ebpf, classic, one."""

    kind: str
    reason: str


def classic_program(strict: Collection[int]) -> list[Instruction]:
    """A program that gives 1 for the topics in ``strict`` and 0 for everything else.

    Narrow ids and wide ones are looked for apart, each by halving the ranges that there are: classic BPF has
    no tables. Raises :class:`Unavailable` where the ranges are too many.
    """
    narrow = _search(_edges(id_ for id_ in strict if id_ < NARROW))
    wide = _search(_edges(id_ for id_ in strict if id_ >= NARROW))
    program = [
        Instruction(LOAD_BYTE, 0, 0, 0),
        # What is below WIDE is narrow.
        Instruction(SKIP_IF_LESS, 0, 2, WIDE),
        Instruction(LOAD_TWO, 0, 0, 1),
        Instruction(SKIP, 0, 0, len(narrow)),
        *narrow,
        *wide,
    ]
    if len(program) > LONGEST:
        raise Unavailable(
            f"the ids of strict topics lie in too many ranges: a program of {len(program)} instructions, "
            f"{LONGEST} are allowed; ids of one class that follow each other make it shorter"
        )
    return program


def _edges(ids: Iterable[int]) -> list[int]:
    """Where ranges of ids begin, and where what is none begins again, in turn."""
    edges: list[int] = []
    for id_ in sorted(ids):
        if edges and edges[-1] == id_:
            edges[-1] = id_ + 1
        else:
            edges += [id_, id_ + 1]
    return edges


def _search(edges: Sequence[int], inside: int = 0) -> list[Instruction]:
    """Instructions that return 1 for an A within a range; ``inside``: what it is below the first edge."""
    if not edges:
        return [Instruction(RETURN, 0, 0, inside)]
    middle = len(edges) // 2
    above = _search(edges[middle + 1 :], (inside + middle + 1) % 2)
    below = _search(edges[:middle], inside)
    if len(above) <= _FAR:
        return [Instruction(SKIP_IF_LESS, 0, len(above), edges[middle]), *above, *below]
    over = Instruction(SKIP, 0, 0, len(above))
    return [Instruction(SKIP_IF_LESS, 1, 0, edges[middle]), over, *above, *below]


def attach_classic(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Let the program choose among the sockets of this one's port; replaces what chose. :class:`OSError`."""
    packed = b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    described = _PROGRAM.pack(len(program), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, described)


class Selector:
    """Divides the data sockets, and keeps what selects between them true to the topics' classes."""

    def __init__(self, wanted: str, select: Select) -> None:
        """``wanted``: auto, ebpf, classic or one. ``select``: the fast path's."""
        self._wanted = wanted
        self._select = select
        self.selection = Selection("one", "no socket is open")
        self._old_classes = Remark(log, "the data sockets select by the classes of now again")

    def divide(self, pairs: list[Pair], topics: Sequence[Topic], receive_buffer: int) -> list[Pair]:
        """These sockets, with one for the strict class beside each where that can be had."""
        if self._wanted == "one":
            return self._together(pairs, "the configuration says sockets = one", logging.DEBUG)
        if sys.platform != "linux":
            reason = f"only Linux chooses between sockets by what a datagram holds, this is {sys.platform}"
            return self._together(pairs, reason, logging.WARNING)
        try:
            pairs = split_all(pairs, receive_buffer)
        except Unavailable as error:
            return self._together(pairs, one_line(error), logging.WARNING)
        refused = []
        for kind, attach in (("ebpf", self._attach_ebpf), ("classic", self._attach_classic)):
            if self._wanted not in (kind, "auto"):
                continue
            try:
                reason = attach(pairs, topics)
            except (OSError, Unavailable) as error:
                refused.append(f"{kind}: {one_line(error)}")
                continue
            self.selection = Selection(kind, "; not ".join([reason, *refused]))
            return pairs
        return self._together(join_all(pairs), "; ".join(refused), logging.WARNING)

    def configure(self, pairs: Sequence[Pair], topics: Sequence[Topic]) -> None:
        """Select by the classes that these topics have now.

        The fast path's program reads its table itself. Where the new classic program is not to be had the
        old one stays, and the classes part behind the sockets.
        """
        if self.selection.kind != "classic":
            return
        try:
            reason = self._attach_classic(pairs, topics)
        except (OSError, Unavailable) as error:
            reason = f"by the classes of before the last reload: {one_line(error)}"
            self._old_classes(f"the data sockets still select {reason}")
        else:
            self._old_classes.gone()
        self.selection = Selection("classic", reason)

    def _attach_ebpf(self, pairs: Sequence[Pair], topics: Sequence[Topic]) -> str:
        for pair in pairs:
            self._select(pair.strict.fd, pair.best_effort.fd)
        return "a program of the fast path reads the class of each topic"

    def _attach_classic(self, pairs: Sequence[Pair], topics: Sequence[Topic]) -> str:
        program = classic_program({topic.id for topic in topics if topic.quality is Quality.SQ})
        for pair in pairs:
            attach_classic(pair.best_effort.sock, program)
        return f"a program of {len(program)} instructions, made from the configuration"

    def _together(self, pairs: list[Pair], reason: str, level: int) -> list[Pair]:
        log.log(level, "SQ and BQ share the data socket: %s", reason)
        self.selection = Selection("one", reason)
        return pairs
