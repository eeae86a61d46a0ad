"""Says where a broker's secrets lie open: keys and tokens in files that others can read or change.

A client refuses such a file of its own; a broker has more to lose by not starting, so it says so and goes on.
"""

from __future__ import annotations

import logging
import stat
from pathlib import Path

from tempos_broker.config.model import BrokerConfig

log = logging.getLogger("tempos.broker")

_CHANGE, _READ = stat.S_IWGRP | stat.S_IWOTH, stat.S_IROTH


def tell(file: Path | None, config: BrokerConfig) -> None:
    """Warn about the configuration in ``file``, and about the file of its token."""
    if file is not None:
        secret = bool(config.control.clients or config.api_token)
        _tell(
            file, "the configuration, with secrets in it," if secret else "the configuration", secret=secret
        )
    if config.api_token_file:
        _tell(Path(config.api_token_file), "broker.api_token_file", secret=True)


def _tell(path: Path, what: str, *, secret: bool) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        # Who reads it says so.
        return
    verbs = [verb for verb, bits in (("read", _READ if secret else 0), ("change", _CHANGE)) if mode & bits]
    if stat.S_ISREG(mode) and verbs:
        log.warning(
            "%s %s is open to others, who can %s it (mode %04o): chmod %s %s",
            what, path, " and ".join(verbs), stat.S_IMODE(mode), "600" if secret else "644", path,
        )  # fmt: skip
