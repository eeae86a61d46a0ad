"""The clients that a former life had made at run time, as they are in its state, which only its owner reads.

What cannot be understood is left out and told; it stays in the state, and the broker closed.
"""

from __future__ import annotations

import logging

from tempos import ConfigError
from tempos_broker.config.clients import read_client
from tempos_broker.config.model import ClientConfig
from tempos_broker.lives.store import Store

#: The kind under which the state has them, by id; and what stands there where signatures are demanded even
#: of nobody. No client has such an id.
MADE, DEMANDED = "client made at run time", "*"

log = logging.getLogger("tempos.broker.state")


def former_clients(store: Store | None) -> tuple[list[ClientConfig], bool]:
    """In the order of their ids; and whether signatures are demanded."""
    stored = store.stored.things.get(MADE, {}) if store is not None else {}
    made: dict[bytes, ClientConfig] = {}
    for name in sorted(stored.keys() - {DEMANDED}):
        try:
            client = read_client(stored[name])
            if client.id != name or client.key in made:
                raise ConfigError(["it is not what it is stored as"])
        except ConfigError as error:
            log.warning("client %s, made at run time, is left out: %s", name, "; ".join(error.problems))
        else:
            made[client.key] = client
    return list(made.values()), bool(stored)
