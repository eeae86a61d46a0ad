"""What a daemon asks others by HTTP with: httpx, all of whose troubles are httpx's own errors."""

from __future__ import annotations

import httpx


class Transport(httpx.AsyncHTTPTransport):
    """Where a connection that is reset as it begins is one that could not be had, on any loop.

    On uvloop (0.23) a transport that is closed has no socket any more, of which anyio (4.16) asks the peer's
    address all the same: an AttributeError, which httpcore (1.0.9) and httpx let through.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx's own; raises nothing but :class:`httpx.TransportError` of what goes wrong on the way."""
        try:
            return await super().handle_async_request(request)
        except AttributeError as error:
            if error.obj is not None:
                raise
            raise httpx.ConnectError("the connection was reset as it began", request=request) from error
