"""The trigger: one deployment in force, exchanged for another one whole or not at all.

How a new one comes into force: what is new is made and opened, so whatever can be refused is refused while
nothing has changed; the document is kept on disk; then nothing can fail any more: what has gone is closed,
what has changed goes on with its new options or hands over to its successor, what is new starts. What has not
changed is not touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from typing import Any

from tempos import ConfigError, TemposError, __version__
from tempos.errors import one_line
from tempos_trigger import registry
from tempos_trigger.endpoint import Endpoint
from tempos_trigger.kind import Source
from tempos_trigger.link import Link
from tempos_trigger.model import BrokerAt, Deployment, EndpointSpec
from tempos_trigger.store import DEPLOYMENT, Store

log = logging.getLogger("tempos.trigger")

#: Endpoints that are named where there may be thousands.
NAMED = 5
#: Seconds that what waits in an endpoint has to be published once it is to go.
PATIENCE = 1.5
#: Seconds that the broker has to say which topics there are; then a deployment is in force without it.
ASKED_WITHIN = 2.0


class Trigger:
    """Endpoints and the way to their broker; all calls on one event loop."""

    def __init__(self, name: str, store: Store, *, keep: bool = True) -> None:
        self.name = name
        #: What the door of the API turned away, by reason.
        self.api_refused: Counter[str] = Counter()
        self.deployment: Deployment | None = None
        self.endpoints: dict[str, Endpoint] = {}
        #: Where the deployment in force came from, in a word.
        self.origin = "none"
        self._store = store
        self._keep = keep
        self._link: Link | None = None
        self._watch: asyncio.Task[None] | None = None
        self._applying = asyncio.Lock()
        self._began = time.monotonic()

    async def apply(self, new: Deployment, origin: str) -> list[str]:
        """Put a deployment in force; gives what changed. Raises :class:`ConfigError`: then nothing has."""
        async with self._applying:
            link, watch = self._reach(new.broker)
            opened: dict[str, tuple[Endpoint, Source]] = {}
            before = set() if self.deployment is None else {spec.topic for spec in self.deployment.endpoints}
            wanted = {spec.topic for spec in new.endpoints}
            try:
                await self._open(new, link, opened)
                # The first signal that goes to another topic must not find that nobody has asked for it yet.
                link.want(before | wanted)
                if link is not self._link or not wanted <= before:
                    await link.settled(ASKED_WITHIN)
                await asyncio.get_running_loop().run_in_executor(None, self._write, new)
            except BaseException:
                for _, source in opened.values():
                    await source.close()
                if watch is not self._watch:
                    watch.cancel()
                else:
                    link.want(before)
                raise
            changes = await self._exchange(new, link, watch, opened)
            self.deployment, self.origin = new, origin
            link.want(wanted)
            log.info("deployment %r is in force: %s", new.revision, ", ".join(changes) or "nothing changed")
            return changes

    def _write(self, new: Deployment) -> None:
        """Keep it for the next start."""
        if not self._keep:
            return
        try:
            self._store.write(DEPLOYMENT, new.document)
        except OSError as error:
            raise ConfigError([f"the deployment cannot be kept: {one_line(error)}"]) from error

    def _reach(self, at: BrokerAt) -> tuple[Link, asyncio.Task[None]]:
        """The way to a broker: the one there is, if it leads there."""
        if self._link is not None and self._watch is not None and self._link.at == at:
            return self._link, self._watch
        link = Link(at)
        return link, asyncio.get_running_loop().create_task(link.run(), name="look after the broker")

    async def _open(self, new: Deployment, link: Link, opened: dict[str, tuple[Endpoint, Source]]) -> None:
        """Make and open all sources that are needed anew; raises :class:`ConfigError` with every fault."""
        faults = []
        for index, spec in enumerate(new.endpoints):
            if self._goes_on(spec):
                continue
            endpoint = self._kept(spec) or Endpoint(spec, link, self._store)
            source = registry.kind(spec.kind).make(spec, endpoint)
            opened[spec.name] = (endpoint, source)
            try:
                await source.open()
            except (OSError, TemposError) as error:
                faults.append(f"endpoint[{index}] ({spec.name!r}) cannot be opened: {one_line(error)}")
        if faults:
            raise ConfigError(faults)

    def _kept(self, spec: EndpointSpec) -> Endpoint | None:
        """The endpoint of this name, whose account goes on; one of another kind is another one."""
        known = self.endpoints.get(spec.name)
        return known if known is not None and known.spec.kind == spec.kind else None

    def _goes_on(self, spec: EndpointSpec) -> bool:
        known = self._kept(spec)
        if known is None or known.source is None:
            return False
        return known.spec == spec or known.source.takes(spec)

    async def _exchange(
        self,
        new: Deployment,
        link: Link,
        watch: asyncio.Task[None],
        opened: dict[str, tuple[Endpoint, Source]],
    ) -> list[str]:
        changes = []
        specs = {spec.name: spec for spec in new.endpoints}
        gone = [
            each
            for name, each in self.endpoints.items()
            if name not in specs or each is not (self._kept(specs[name]))
        ]
        for each in gone:
            changes.append(f"removed {each.spec.name!r}")
            del self.endpoints[each.spec.name]
        for name, spec in specs.items():
            endpoint, source = opened.get(name, (self.endpoints.get(name), None))
            assert endpoint is not None, "it goes on, or was opened"
            is_new = name not in self.endpoints
            if is_new:
                self.endpoints[name] = endpoint
                changes.append(f"added {name!r}")
            elif spec != endpoint.spec:
                changes.append(f"changed {name!r}")
            if source is not None:
                former, endpoint.source = endpoint.source, source
                if former is not None:
                    await former.close()
                endpoint.change(spec, link)
                await source.start()
            elif spec != endpoint.spec or link is not endpoint.link:
                assert endpoint.source is not None
                endpoint.source.take(spec)
                endpoint.change(spec, link)
        if link is not self._link:
            if self._link is not None:
                changes.append(f"another broker, {link.at.address}")
            former_watch, self._link, self._watch = self._watch, link, watch
        else:
            former_watch = None
        # They publish what they have by the way that they had.
        await asyncio.gather(*(each.close(PATIENCE) for each in gone))
        for each in gone:
            self._tell_end(each)
            if each.spec.name not in specs:
                each.forget()
        if former_watch is not None:
            await _end(former_watch)
        return changes

    def _tell_end(self, endpoint: Endpoint) -> None:
        account = endpoint.account
        dropped = (
            ", ".join(f"{count} {reason}" for reason, count in sorted(account.dropped.items())) or "none"
        )
        log.info(
            "endpoint %r is closed: %d received, %d published, dropped: %s",
            endpoint.spec.name, account.received, account.published, dropped,
        )  # fmt: skip

    async def close(self) -> None:
        """Take nothing more in, publish what waits if that is soon done, end; safe to call twice."""
        async with self._applying:
            await asyncio.gather(*(each.close(PATIENCE) for each in self.endpoints.values()))
            for each in self.endpoints.values():
                self._tell_end(each)
            self.endpoints.clear()
            watch, self._watch, self._link = self._watch, None, None
            if watch is not None:
                await _end(watch)

    @property
    def ready(self) -> bool:
        """Whether a deployment is in force, and every endpoint takes signals in and publishes them."""
        return self.deployment is not None and all(
            each.why_not is None and each.source is not None and each.source.status()["state"] == "up"
            for each in self.endpoints.values()
        )

    def describe(self) -> str:
        """What is taken in, and where it goes, in half a line."""
        if self.deployment is None:
            return "no deployment yet"
        told = []
        for each in list(self.endpoints.values())[:NAMED]:
            source = {} if each.source is None else each.source.status()
            where = source.get("url") or source.get("listen") or repr(each.spec.name)
            told.append(f"{each.spec.kind} {where} to {each.spec.topic}")
        more = len(self.endpoints) - len(told)
        return (", ".join(told) or "no endpoints") + (f" and {more} more" if more else "")

    def status(self) -> dict[str, Any]:
        """Everything that a person looks for first."""
        return {
            "name": self.name,
            "version": __version__,
            "uptime_s": round(time.monotonic() - self._began, 3),
            "ready": self.ready,
            "revision": None if self.deployment is None else self.deployment.revision,
            "deployment": self.origin,
            "broker": None if self._link is None else self._link.status(),
            "endpoints": [each.status() for each in self.endpoints.values()],
            "api_refused": dict(self.api_refused),
        }


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
