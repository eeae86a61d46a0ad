"""An event loop inside a node, so that the client library can be used there by whoever built the node."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from tempos_bench.nodes.node import Node

T = TypeVar("T")


class NodeLoop:
    """Runs coroutines with a node's network, in a thread of this process; closed with the context."""

    def __init__(self, node: Node) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=node.call, args=(self._run,), name="loop in a node")
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()

    def do(self, work: Coroutine[Any, Any, T], limit: float = 30.0) -> T:
        """What the coroutine gives or raises; TimeoutError after ``limit`` seconds."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(limit)

    def __enter__(self) -> NodeLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
