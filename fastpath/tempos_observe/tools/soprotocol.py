"""soprotocol: which processes connect and accept, and by which protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tempos_observe import calls, joins
from tempos_observe.frame.session import Session
from tempos_observe.tool import Counts, Example, Hook, Tool, Value


def _joined(way: int) -> Callable[[Session], Iterator[tuple[tuple[Value, ...], int]]]:
    def rows(session: Session) -> Iterator[tuple[tuple[Value, ...], int]]:
        for key, count in session.rows("protocols"):
            if key.call == way:
                named = joins.protocol_name(key.family, key.protocol)
                yield (key.comm, key.protocol, named, key.name), count.value

    return rows


TOOL = Tool(
    name="soprotocol",
    question="Which processes connect and accept, by which protocol?",
    programs="soprotocol",
    hooks=(Hook("tempos_joined", joins.HOOK, needs=calls.known),),
    views=lambda wishes: tuple(
        Counts(name, ("comm", "protocol", "protocol_name", "kernel_name"), _joined(way))
        for name, way in joins.WAYS.items()
    ),
    blind=joins.BLIND,
    rodata=lambda wishes: {"calls": calls.table(joins.TABLE)},
    examples=(
        Example("soprotocol", "which protocols are in use here, and by whom?"),
        Example("soprotocol --broker", "of broker, worker and invokers"),
    ),
)
