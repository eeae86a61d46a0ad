"""The brokers of a fleet as people and programs are told of them: values of JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tempos_broker.fleet.view import View


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
