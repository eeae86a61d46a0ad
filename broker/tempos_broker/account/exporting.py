"""An account as JSON values, to be stored, and back; that of a large topic as text, a piece at a time.

Who has the text made goes on with something else between two pieces. Members may report meanwhile: what each
of them told stands in one piece, and is told again. Whatever else changes gives the account another *shape*,
and the text is of no use then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from tempos_broker.account.accounts import Account, GroupAccount, Holder, holder_of
from tempos_broker.account.quiet import Groups, Quiet
from tempos_broker.account.topics import TopicAccount

#: Yields how much was done in a piece, in members' accounts; returns the text.
Pieces: TypeAlias = Generator[int, None, str]
Shape: TypeAlias = tuple[Any, ...]
_Row = TypeVar("_Row")

#: Members' accounts in a piece, and places in a route that take as long as one.
ACCOUNTS, PLACES = 32, 16


def exported(state: TopicAccount | Quiet, publishers: Any) -> dict[str, Any]:
    """All of an account; ``groups`` is left out where nothing is counted in any."""
    told = _head(state, publishers)
    told["open"] = [[epoch, groups] for epoch, groups in dict(state.open).items()]
    if isinstance(state, TopicAccount):
        told["groups"] = [
            {**_group(name, group), "accounts": [account.export() for account in group.accounts.values()]}
            for name, group in state.groups.items()
        ]
    return told


def restored(
    stored: Mapping[str, Any],
    opened: Iterable[tuple[int, list[tuple[str, tuple[Holder, ...]]]]],
    *,
    stamped: bool,
    now: float,
    wall: float,
) -> TopicAccount:
    """The account that :func:`exported` has told with its groups; ``opened``: what is open.

    Raises KeyError, TypeError or ValueError for what is none. ``wall``: Unix time in seconds.
    """
    state = TopicAccount(int(stored["epoch"]), int(stored["drawn"]))
    state.unequal = [int(epoch) for epoch in stored["unequal"]]
    state.forgot = bool(stored.get("forgot"))
    state.open.update(opened)
    for entry in stored["groups"]:
        group = state.groups[str(entry["name"])] = GroupAccount()
        group.tickets, group.gone_delivered, group.gone_lost, group.gone_unknown = map(int, entry["sums"])
        group.unsent = int(entry.get("unsent", 0))
        group.gone_dropped = int(entry.get("dropped", 0))
        # An earlier broker did not tell when: what is not known to be long ago may have been just now.
        known = wall if group.gone_lost or group.gone_dropped else 0.0
        group.lost_at = entry.get("lost_at", known)
        group.filtered, group.sampled = map(int, entry.get("less", (0, 0)))
        group.gone_repaired, group.gone_given_up = map(int, entry.get("repairs", (0, 0)))
        for holder, count, *more in entry["settled"]:
            group.settled[holder_of(holder)] = (int(count), int(more[0]) if more else 0)
        for one in entry["accounts"]:
            account = Account.load(one, stamped, now)
            group.accounts[account.holder] = account
    for groups in state.open.values():
        for name, holders in groups:
            if any(holder not in state.groups[name].accounts for holder in holders):
                raise ValueError(f"a holder of group {name!r} has no account")
    return state


def in_pieces(state: TopicAccount | Quiet, publishers: Callable[[], Any]) -> Pieces:
    """The same as text; what is no member's is read last."""
    opened = []
    for epoch, groups in list(dict(state.open).items()):
        opened.append(f"[{epoch}, [{', '.join((yield from _places(groups)))}]]")
    parts = {"open": f"[{', '.join(opened)}]"}
    if isinstance(state, TopicAccount):
        told = []
        for name, group in list(state.groups.items()):
            accounts = yield from _rows(list(group.accounts.values()), Account.export, ACCOUNTS, 1)
            told.append(with_texts(_group(name, group), {"accounts": accounts}))
        parts["groups"] = f"[{', '.join(told)}]"
    return with_texts(_head(state, publishers()), parts)


def shape_of(state: TopicAccount | Quiet) -> Shape:
    """What is another one where more has changed than what members tell."""
    groups = state.groups if isinstance(state, TopicAccount) else {}
    sizes = tuple((name, len(group.accounts)) for name, group in groups.items())
    return state, state.epoch, tuple(dict(state.open)), sizes


def with_texts(values: dict[str, Any], texts: dict[str, str]) -> str:
    """The JSON text of values and of what is text already."""
    more = [f"{json.dumps(key)}: {text}" for key, text in texts.items()]
    return f"{{{', '.join([json.dumps(values)[1:-1], *more] if values else more)}}}"


def _head(state: TopicAccount | Quiet, publishers: Any) -> dict[str, Any]:
    told: dict[str, Any] = {**({"publishers": publishers} if publishers else {}), "epoch": state.epoch}
    if isinstance(state, TopicAccount):
        told |= {"drawn": state.drawn, "unequal": list(state.unequal), "forgot": state.forgot}
    return told


def _group(name: str, group: GroupAccount) -> dict[str, Any]:
    return {
        "name": name,
        "unsent": group.unsent,
        "sums": [group.tickets, group.gone_delivered, group.gone_lost, group.gone_unknown],
        "dropped": group.gone_dropped,
        "lost_at": group.lost_at,
        "less": [group.filtered, group.sampled],
        "repairs": [group.gone_repaired, group.gone_given_up],
        "settled": [[list(holder), *told] for holder, told in group.settled.items()],
    }


def _places(groups: Groups) -> Generator[int, None, list[str]]:
    rows = []
    for name, holders in groups:
        text = yield from _rows(holders, list, ACCOUNTS * PLACES, PLACES)
        rows.append(f"[{json.dumps(name)}, {text}]")
    return rows


def _rows(rows: Sequence[_Row], told: Callable[[_Row], Any], at_once: int, of_one: int) -> Pieces:
    pieces = []
    for first in range(0, len(rows), at_once):
        some = rows[first : first + at_once]
        pieces.append(json.dumps([told(row) for row in some])[1:-1])
        yield -(-len(some) // of_one)
    return f"[{', '.join(pieces)}]"
