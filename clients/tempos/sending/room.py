"""Who waits for room in the socket of a publisher."""

from __future__ import annotations

import asyncio
import socket

#: Seconds until a socket that nothing can watch is tried again.
RETRY = 0.001


class Room:
    """All that wait do so together: at most one socket is watched at a time."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None

    async def wait(self, sock: socket.socket) -> None:
        """Return when it may take something."""
        loop = asyncio.get_running_loop()
        if self._waiting is None:
            try:
                loop.add_writer(sock, self.let_go, sock)
            except NotImplementedError:
                await asyncio.sleep(RETRY)
                return
            self._waiting = loop.create_future()
        await asyncio.shield(self._waiting)

    def let_go(self, sock: socket.socket) -> None:
        """Let whoever waits for this socket try again."""
        if self._waiting is None:
            return
        waiting, self._waiting = self._waiting, None
        waiting.get_loop().remove_writer(sock)
        if not waiting.done():
            waiting.set_result(None)
