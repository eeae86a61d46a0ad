"""sofamily: which processes connect and accept, and with which family of addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tempos_observe import calls, joins
from tempos_observe.frame.session import Session
from tempos_observe.tool import Counts, Example, Hook, Tool, Value


def _joined(way: int) -> Callable[[Session], Iterator[tuple[tuple[Value, ...], int]]]:
    def rows(session: Session) -> Iterator[tuple[tuple[Value, ...], int]]:
        for key, count in session.rows("families"):
            if key.call == way:
                yield (key.comm, key.family, joins.family_name(key.family)), count.value

    return rows


TOOL = Tool(
    name="sofamily",
    question="Which processes connect and accept, by which family of addresses?",
    programs="sofamily",
    hooks=(Hook("tempos_joined", joins.HOOK, needs=calls.known),),
    views=lambda wishes: tuple(
        Counts(name, ("comm", "family", "family_name"), _joined(way)) for name, way in joins.WAYS.items()
    ),
    blind=joins.BLIND,
    rodata=lambda wishes: {"calls": calls.table(joins.TABLE)},
    examples=(
        Example("sofamily", "who uses IPv6 here, or sockets at all, against expectation?"),
        Example("sofamily --comm curl --duration 60", "one program, a minute"),
    ),
)
