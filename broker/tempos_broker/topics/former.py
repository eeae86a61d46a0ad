"""The topics that a former life had made at run time, as they are in its state.

What cannot be understood, or could not be served as the file has come to be, is left out and told; it stays
in the state, where its name may be made anew. It is never a reason not to serve.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from tempos import ConfigError
from tempos_broker.addresses import is_local_address
from tempos_broker.config.model import BrokerConfig, Origin, TopicConfig
from tempos_broker.config.topics import read_topic
from tempos_broker.lives.store import Store
from tempos_broker.members.admission import check_static

#: The kind under which the state has them, by name.
MADE = "topic made at run time"

log = logging.getLogger("tempos.broker.state")


def former_topics(store: Store | None, config: BrokerConfig) -> list[TopicConfig]:
    """In the order of their ids; ``config``: what else holds of the broker."""
    made: dict[int, TopicConfig] = {}
    stored = store.stored.things.get(MADE, {}) if store is not None else {}
    for name, document in stored.items():
        try:
            entry = replace(read_topic(document, config), origin=Origin.RUN_TIME)
            if entry.topic.name != name or entry.topic.id in made:
                raise ConfigError(["it is not what it is stored as"])
            check_static(entry, {config.data_port, *entry.topic.ports}, is_local_address)
        except ConfigError as error:
            log.warning("topic %s, made at run time, is left out: %s", name, "; ".join(error.problems))
        else:
            made[entry.topic.id] = entry
    return [made[topic] for topic in sorted(made)]
