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
from collections.abc import Coroutine
from typing import Any

from tempos import ConfigError, TemposError, __version__
from tempos._remarks import Remark
from tempos.errors import one_line
from tempos_daemon.realtime import RealTime
from tempos_trigger import layout, registry
from tempos_trigger.endpoint import Endpoint
from tempos_trigger.kind import Source
from tempos_trigger.link import Link
from tempos_trigger.model import BrokerAt, Deployment, EndpointSpec
from tempos_trigger.store import DEPLOYMENT, Store

log = logging.getLogger("tempos.trigger")

#: Endpoints that are named where there may be thousands.
NAMED = 5
#: Seconds that what waits in an endpoint has to be published once it is to go.
PATIENCE = 1.0
#: Seconds between two tries to put in force what was kept.
TRY_AGAIN = 2.0
#: Seconds that the broker has to say which topics there are; then a deployment is in force without it.
ASKED_WITHIN = 2.0


class Trigger:
    """Endpoints and the way to their broker; all calls on one event loop."""

    def __init__(self, name: str, store: Store, *, keep: bool = True, priority: int = 0) -> None:
        self.name = name
        self.real_time = RealTime(priority)
        #: What the door of the API turned away, by reason.
        self.api_refused: Counter[str] = Counter()
        self.deployment: Deployment | None = None
        self.endpoints: dict[str, Endpoint] = {}
        #: Where the deployment in force came from, in a word.
        self.origin = "none"
        #: Why the deployment that was kept is not in force.
        self.fault = ""
        self._restoring: asyncio.Task[None] | None = None
        self._remark = Remark(log, "the deployment that was kept is in force")
        self._store = store
        self._keep = keep
        self._link: Link | None = None
        self._watch: asyncio.Task[None] | None = None
        self._applying = asyncio.Lock()
        self._stop = asyncio.Event()
        self._began = time.monotonic()

    async def apply(self, new: Deployment, origin: str, *, only_if_none: bool = False) -> list[str]:
        """Put a deployment in force; gives what changed. Raises :class:`ConfigError`: then nothing has.

        ``only_if_none``: if there is one by then, nothing is done.
        """
        async with self._applying:
            if only_if_none and self.deployment is not None:
                return []
            link, watch = self._reach(new.broker)
            opened: dict[str, tuple[Endpoint, Source]] = {}
            before = set() if self.deployment is None else self.deployment.topics
            wanted = new.topics
            try:
                await self._open(new, link, opened)
                # The first signal that goes to another topic must not find that nobody has asked for it yet.
                link.want(before | wanted)
                if link is not self._link or not wanted <= before:
                    await self._unless_stopped(link.settled(ASKED_WITHIN))
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
            self.deployment, self.origin, self.fault = new, origin, ""
            link.want(wanted)
            log.info("deployment %r is in force: %s", new.revision, ", ".join(changes) or "nothing changed")
            return changes

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for it; raises :class:`ConfigError` if this trigger is to end meanwhile."""
        task = asyncio.get_running_loop().create_task(work, name="ask for topics")
        stop = asyncio.get_running_loop().create_task(self._stop.wait(), name="wait for the end")
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            stop.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)
        if self._stop.is_set():
            raise ConfigError(["this trigger stops"])

    async def restore(self) -> None:
        """Put the deployment in force that was kept; tried again while it cannot be, until another is given.

        Why it cannot, such as a port that somebody else has, is told in the status: to a trigger that does
        not start nobody could give another one.
        """
        try:
            kept = self._store.read(DEPLOYMENT)
            if kept is None:
                return
            deployment = layout.parse(kept, str(self._store.folder / DEPLOYMENT))
        except TemposError as error:
            self.fault = f"the deployment that was kept cannot be used: {one_line(error)}"
            log.error("%s", self.fault)  # noqa: TRY400 - its words say it all
            return
        if not await self._restored(deployment):
            self._restoring = asyncio.get_running_loop().create_task(
                self._restore_later(deployment), name="restore the deployment"
            )

    async def _restore_later(self, deployment: Deployment) -> None:
        while self.deployment is None:
            await asyncio.sleep(TRY_AGAIN)
            if self.deployment is None and await self._restored(deployment):
                return

    async def _restored(self, deployment: Deployment) -> bool:
        try:
            await self.apply(deployment, "state", only_if_none=True)
        except ConfigError as error:
            self.fault = f"the deployment that was kept is not in force yet: {one_line(error)}"
            self._remark(self.fault)
            return False
        self._remark.gone()
        return True

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
        return known is not None and known.source is not None and known.source.takes(spec)

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
        self._stop.set()
        if self._restoring is not None:
            await _end(self._restoring)
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
            return f"no deployment yet ({self.fault})" if self.fault else "no deployment yet"
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
            "fault": self.fault,
            "broker": None if self._link is None else self._link.status(),
            "scheduling": self.real_time.told(),
            "endpoints": [each.status() for each in self.endpoints.values()],
            "api_refused": dict(self.api_refused),
        }


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
