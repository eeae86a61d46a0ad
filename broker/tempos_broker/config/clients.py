"""One client as a document, outside of a file: what the control API is given, and what is kept of it.

The same table as for the file judges it. A value of null means that its option is left out. No fault and no
word about a difference ever shows a key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tempos_broker.config import layout
from tempos_broker.config.bad import BadDocument
from tempos_broker.config.dump import client_document
from tempos_broker.config.model import ClientConfig, Origin
from tempos_daemon.schema import Faults, read_table

CLIENT = layout.CLIENT


class BadClient(BadDocument):
    """A client is not as it must be."""

    what = "client"


def read_client(document: object) -> ClientConfig:
    """Check a client by itself, as one made at run time; raises :class:`BadClient`."""
    faults = Faults("client")
    if not isinstance(document, dict):
        raise BadClient([f"client: is no object; allowed: an object with the keys {', '.join(CLIENT)}"])
    given = {key: value for key, value in document.items() if value is not None or key not in CLIENT}
    table = read_table(given, "", CLIENT, faults)
    if faults.problems:
        raise BadClient(faults.problems)
    return ClientConfig(**table.values, origin=Origin.RUN_TIME)


def document_of(client: ClientConfig) -> dict[str, Any]:
    """A client as :func:`read_client` takes it, as JSON values, with its key."""
    return {key: list(each) if isinstance(each, tuple) else each
            for key, each in client_document(client).items()}  # fmt: skip


def client_changes(old: ClientConfig, new: ClientConfig) -> Iterator[str]:
    """In what two clients of one id differ, in words."""
    if old.key != new.key:
        yield "another key"
    for right in ("publish", "subscribe"):
        before, after = getattr(old, right), getattr(new, right)
        if before != after:
            yield f"{right} [{', '.join(before)}] -> [{', '.join(after)}]"
