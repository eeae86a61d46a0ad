"""What leases want, names and filters, as the state has it: a thing for each holder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tempos.names import filter_fault
from tempos_broker.account.accounts import Holder
from tempos_broker.lives.checks import address_of, listed, name_of, port_of, whole
from tempos_broker.lives.memory import UNREADABLE
from tempos_broker.members.known import Wanted

#: The kind under which the state has them.
WANTED = "wanted"


def as_thing(
    holder: Holder, wanted: Mapping[str, Wanted], *, shared: bool = False
) -> tuple[str, list[list[Any]] | None]:
    """A key, and a JSON value; None where nothing is wanted that is to be known in the next life.

    ``shared``: it is a member of the whole fleet.
    """
    more = [True] if shared else []
    rows = [[each, how.group, how.source, how.client, *more] for each, how in wanted.items() if how.follows]
    return f"{holder.ip}:{holder.port} {holder.client}", rows or None


def wants_in(things: Mapping[str, Any]) -> Iterator[tuple[Holder, dict[str, Wanted], bool]]:
    """The same again, and whether it is shared. Nonsense is left out."""
    for key, rows in things.items():
        try:
            endpoint, client = key.split(" ")
            ip, port = endpoint.split(":")
            holder = Holder(address_of(ip), port_of(int(port)), whole(int(client)))
            known = [listed(row) for row in listed(rows)]
            found = {_wanted(row[0]): _how(*row[1:4]) for row in known}
        except UNREADABLE:
            continue
        yield holder, found, any(row[4:] for row in known)


def _wanted(value: Any) -> str:
    if filter_fault(value) is not None:
        raise ValueError(f"{value!r} is no filter")
    return str(value)


def _how(group: Any, source: Any, client: Any) -> Wanted:
    return Wanted(
        name_of(group),
        None if source is None else address_of(source),
        None if client is None else name_of(client),
    )
