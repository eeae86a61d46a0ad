"""The end of leases: a timer for the earliest, and the routes swapped of those that are over."""

from __future__ import annotations

import asyncio
import logging
import time

from tempos_broker.membership import Registry
from tempos_broker.routes import Routes
from tempos_broker.tasks import Tasks

log = logging.getLogger("tempos.broker")


class Expiry:
    """Takes members out whose lease has ended. Call :meth:`schedule` after whatever may begin one."""

    def __init__(self, registry: Registry, routes: Routes, tasks: Tasks) -> None:
        self._registry = registry
        self._routes = routes
        self._tasks = tasks
        self._timer: asyncio.TimerHandle | None = None

    def schedule(self) -> None:
        """Wake up when the earliest lease ends. Renewals only move it on, so waking early is harmless."""
        expiry = self._registry.next_expiry()
        self.cancel()
        if expiry is not None:
            delay = max(0.0, expiry - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self.expire)

    def expire(self) -> None:
        """Take out those whose lease has ended by now."""
        for topic, members in self._registry.expire(time.monotonic()).items():
            for member in members:
                log.warning("topic %s: the lease of %s ended", self._routes.name(topic), member)
            self._tasks.spawn(self._routes.swap(topic), f"expire members of topic {topic}")
        self.schedule()

    def cancel(self) -> None:
        """Take nobody out any more, until the next :meth:`schedule`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
