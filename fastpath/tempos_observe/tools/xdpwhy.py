"""xdpwhy: which redirects of XDP programs failed, between which interfaces and why, and of which topic."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from functools import lru_cache

from tempos_observe.frame.session import Session
from tempos_observe.tool import Column, Example, Hook, Row, Table, Tool

_UNKNOWN = 0xFFFFFFFF
#: What became of a frame, as the programs number it.
_REFUSED, _NOT_TAKEN = 1, 2
#: The kernel's own, which no user sees otherwise.
_ENOTSUPP = 524
_ABORTED, _TX = 0, 3
_COLUMNS = (
    Column("FROM", "from", 15),
    Column("TO", "to", 15),
    Column("NETNS", "netns", 10, "d", spare=2),
    Column("TOPIC", "topic", 5, "d"),
    Column("PROGRAM", "program", 15, spare=1),
    Column("FRAMES", "frames", 9, "d"),
    Column("WHY", "why", 12),
    Column("ERROR", "error", 8),
)


def _rows(session: Session) -> Iterator[Row]:
    for key, failed in session.rows("failures"):
        yield (
            failed.from_name or None,
            failed.to_name or None,
            key.namespace,
            None if key.topic == _UNKNOWN else key.topic,
            failed.program or _name(key.program),
            failed.frames,
            *_why(key.what, key.code),
        )


def _why(what: int, code: int) -> tuple[str, str | None]:
    if what == _REFUSED:
        return "refused", _error(code)
    if what == _NOT_TAKEN:
        # Without an error the interface took as many as there was room for.
        return "not taken", _error(code or errno.ENOBUFS)
    return {_ABORTED: "aborted", _TX: "not sent"}.get(code, f"verdict {code}"), None


def _error(code: int) -> str:
    return "ENOTSUPP" if code == _ENOTSUPP else errno.errorcode.get(code, str(code))


@lru_cache(1024)
def _name(program: int) -> str | None:
    from tempos_bpf.links import program_name

    return program_name(program) or None if program else None


TOOL = Tool(
    name="xdpwhy",
    question="Which redirects of XDP programs failed, between which interfaces, of which topic, and why?",
    programs="xdpwhy",
    hooks=(
        Hook("tempos_refused", "tracepoint xdp_redirect_err: redirects that are refused at once"),
        Hook("tempos_unsent", "tracepoint xdp_devmap_xmit: frames that an interface did not take"),
        Hook("tempos_excepted", "tracepoint xdp_exception: programs that abort, frames that were not sent"),
    ),
    views=lambda wishes: (Table("failures", "Redirects that failed:", _COLUMNS, _rows, order="frames"),),
    blind=(
        "copies for several groups whose interface was down when they were made, and datagrams without a way "
        "out: tempos status has both, by topic",
        "what an interface throws away by itself that took the frame, as every one does in generic mode",
        "topics of frames that are not the fast path's, and where a driver keeps the frame out of sight",
    ),
    by_process=False,
    examples=(
        Example("xdpwhy", "what the fast path lost behind its redirects, and of which topics"),
        Example("xdpwhy --interval 1 --json", "for programs, every second all that failed so far"),
    ),
)
