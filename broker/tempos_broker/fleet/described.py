"""The brokers of a fleet as people and programs are told of them: values of JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from tempos_broker.account.accounts import Holder
from tempos_broker.fleet.view import View
from tempos_broker.members.known import Lease


def brokers_in(view: View) -> list[dict[str, Any]]:
    """Each broker that is known, and how far it has come, by name."""
    homes_of = Counter(row.home for row in view.members.values())
    return [
        {
            "name": row.name,
            "address": row.address,
            "data_port": row.data_port,
            "control_port": row.control_port,
            "api": row.api,
            "zone": row.zone,
            "in_force": view.in_force(row.name),
            "members": homes_of[row.name],
            **_served(view, row.name),
        }
        for row in sorted(view.brokers.values(), key=lambda row: row.name)
    ]


def members_in(view: View, lease_of: Callable[[Holder], Lease | None]) -> list[dict[str, Any]]:
    """The members of all: where each is at home, what it wants, and whether it is served here."""
    return [
        {
            "ip": row.holder.ip,
            "port": row.holder.port,
            "home": row.home,
            "wants": {name: group for name, (group, _) in row.wanted.items()},
            "here": (lease := lease_of(row.holder)) is not None and bool(lease.topics),
        }
        for row in view.members.values()
    ]


def _served(view: View, name: str) -> dict[str, Any]:
    """Of the members of others: how many a broker serves, and lacks; and how far it is with leaving."""
    progress, drained = view.progress.get(name), view.drains.get(name)
    return {
        "serves": 0 if progress is None else progress.serves,
        "lacks": 0 if progress is None else progress.lacks,
        "lacks_topics": 0 if progress is None else progress.topics,
        "lacks_clients": 0 if progress is None else progress.clients,
        "leaving": None if drained is None else {
            "members": drained.home, "quiet": drained.quiet, "done": drained.done
        },
    }  # fmt: skip
