"""What becomes of clients in a process that was forked off: there they are over, and say so.

Parent and child would share sockets, numbers and what the event loop watches: events would be numbered
twice, a child that leaves would take its parent's membership along, and threads do not come along at all, so
that whoever waits for one waits for ever. So in the child each client lets go of all that untouched. Nor can
one be handed to another process, as `multiprocessing` would by pickling it.
"""

from __future__ import annotations

import os
import weakref
from typing import NoReturn, Protocol

from tempos.errors import LocalError

WORDS = "was made before this process was forked off: make one here"


class OfOneProcess:
    """A client that belongs to the process that made it."""

    def __reduce__(self) -> NoReturn:
        raise LocalError(f"a {type(self).__name__} cannot be handed to another process: make one there")


class Forked(Protocol):
    """Somebody who is told in a child."""

    def forked(self) -> None:
        """Let go, in a child, of what is the parent's, without telling anybody."""
        ...


_clients: weakref.WeakSet[Forked] = weakref.WeakSet()


def watch(client: Forked) -> None:
    """Have a client told in every child."""
    _clients.add(client)


def _in_child() -> None:
    for client in list(_clients):
        client.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


class Closed:
    """Stands in for the socket of a publisher that is not open."""

    words = "is not open: use it inside 'async with Publisher(...)'"

    def send(self, datagram: bytes) -> int:
        raise LocalError(f"this publisher {self.words}")

    def fileno(self) -> int:
        return self.send(b"")

    def close(self) -> None:
        return


class Elsewhere(Closed):
    """The same, of one that is the parent's."""

    words = WORDS
