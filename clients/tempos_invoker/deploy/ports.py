"""Which port each source received at, so that it comes back there when an invoker was killed.

To the broker whoever subscribes from an endpoint that is a member already is that member: it goes on at once.
From another port it would be a further member, and the events that its former self is given until the lease
ends would be lost.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from tempos._files import write_whole
from tempos._remarks import Remark
from tempos.errors import one_line
from tempos_invoker.deploy.model import BrokerAt

log = logging.getLogger("tempos.invoker")


class Ports:
    """Kept in the file ``path``; what is not there, or cannot be read, is not known."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._remark = Remark(log, "the ports of members are kept")
        self._known: dict[str, int] = {}
        try:
            told = json.loads(path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            self._remark(f"{path} cannot be read, members get other ports: {one_line(error)}")
            return
        if isinstance(told, dict):
            self._known = {key: port for key, port in told.items() if type(port) is int and 0 < port < 65536}

    def of(self, at: BrokerAt, topic: str, group: str, member: int) -> int:
        """The port of the last time, 0 if there was none."""
        return self._known.get(_key(at, topic, group, member), 0)

    def keep(self, at: BrokerAt, topic: str, group: str, member: int, port: int) -> None:
        """It is this one now."""
        key = _key(at, topic, group, member)
        if self._known.get(key) == port:
            return
        self._known[key] = port
        try:
            write_whole(self._path, json.dumps(self._known).encode())
        except OSError as error:
            self._remark(f"{self._path} cannot be written: {one_line(error)}")
        else:
            self._remark.gone()


def _key(at: BrokerAt, topic: str, group: str, member: int) -> str:
    return f"{at} {topic} {group} {member}"
