"""What is wanted as named documents, and what a change makes of them.

A document is one table of the platform's file. Those that came with the file are the file's: when another
version of it is put in force they are what that one says. Those that came by an order stay until an order, or
a file that has the name, changes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tempos import ConfigError
from tempos_controller.config.load import KINDS
from tempos_controller.config.model import LOCAL
from tempos_controller.force.store import Desired
from tempos_daemon.schema import show

FILE, RUN_TIME = "file", "run-time"
#: Kinds -> names -> a document, or None for one that is to go.
Change = Mapping[str, Mapping[str, Any]]


def with_change(desired: Desired, change: Change) -> Desired:
    """What is wanted once the change is made. Raises :class:`ConfigError` for names that are not there."""
    items = {kind: dict(desired.items.get(kind, {})) for kind in KINDS}
    origins = dict(desired.origins)
    problems = []
    for kind, named in change.items():
        for name, document in named.items():
            if document is not None:
                items[kind][name] = document
                origins[f"{kind}/{name}"] = RUN_TIME
            elif name in items[kind]:
                del items[kind][name]
                del origins[f"{kind}/{name}"]
            else:
                known = ", ".join(sorted(items[kind])[:12]) or "none is there"
                problems.append(f"{kind} {show(name)} is not there; allowed: {known}")
    if problems:
        raise ConfigError(problems)
    return replace(desired, items=items, origins=origins)


def with_file(desired: Desired, documents: Mapping[str, Any], digest: str) -> Desired:
    """What is wanted once another version of the file is in force."""
    items: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    for kind in KINDS:
        items[kind] = {each["name"]: each for each in documents.get(kind, ())}
        origins |= {f"{kind}/{name}": FILE for name in items[kind]}
        for name, document in desired.items.get(kind, {}).items():
            if desired.origins.get(f"{kind}/{name}") == RUN_TIME and name not in items[kind]:
                items[kind][name] = document
                origins[f"{kind}/{name}"] = RUN_TIME
    return replace(desired, items=items, origins=origins, file=digest)


def with_nodes_of(desired: Desired, documents: Mapping[str, Any]) -> Desired:
    """What was wanted, with the nodes that the file has elsewhere now where it has them.

    For a Controller that only begins: what it was left is started, or found, at the places of the file.
    """
    known = dict(desired.items.get("node", {}))
    listed = {each["name"]: each for each in documents.get("node", ())}
    implied = {LOCAL: {"name": LOCAL}}
    moved = {
        name: document
        for name, document in (listed or implied).items()
        if document != (known or implied).get(name, document)
        and (name in listed or desired.origins.get(f"node/{name}") == FILE)
    }
    if not moved:
        return desired
    origins = {**desired.origins, **{f"node/{name}": FILE for name in moved}}
    return replace(desired, items={**desired.items, "node": {**known, **moved}}, origins=origins)


@dataclass(frozen=True, slots=True)
class Places:
    """What the file says of Controller and broker: raw tables, and what the broker's own file says."""

    tables: Mapping[str, Any]
    own: Mapping[str, Any]

    def documents(self, desired: Desired) -> dict[str, Any]:
        """The whole platform as a document."""
        listed = {kind: desired.documents(kind) for kind in KINDS if desired.items.get(kind)}
        return {**self.tables, **listed}
