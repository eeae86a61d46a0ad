"""Which files of a broker others should not read, or not change: what is said of them at the start."""

from __future__ import annotations

import logging
from pathlib import Path

from tempos_broker.config.model import BrokerConfig
from tempos_daemon.token import tell_open

log = logging.getLogger("tempos.broker")


def tell(file: Path | None, config: BrokerConfig) -> None:
    """Warn about the configuration in ``file``, and about the files that it names."""
    if file is not None:
        secret = bool(config.control.clients or config.api_token or config.fleet.password)
        what = "the configuration, with secrets in it," if secret else "the configuration"
        tell_open(file, what, log, secret=secret)
    if config.api_token_file:
        tell_open(Path(config.api_token_file), "broker.api_token_file", log)
    if config.fleet.key:
        tell_open(Path(config.fleet.key), "fleet.key", log)
