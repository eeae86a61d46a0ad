"""What viewers are told while they look: the state once, then what of it changed, at most once a second.

``GET /v1/events``, as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).
Rules: a step is made once, in slices of the event loop, whoever looks; for each viewer there is nothing to do
but to hand on ready bytes. So many may look at a time; one that does not take its steps is let go. What is
wrong is judged by the checks of `tempos doctor`, also while nobody looks, though rarely: so it is known since
when it is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from tempos._awaitables import in_time
from tempos.doctor.findings import Asked, Severity, Tried, judge
from tempos.doctor.serving import SERVING, few, look, of_topic
from tempos_broker.account.changes import Kind
from tempos_broker.documents import Documents
from tempos_broker.state import TopicState
from tempos_daemon.slices import Slices

#: Seconds between two steps with viewers, and without; a step takes at most this part of the time.
EVERY, UNSEEN, SHARE = 1.0, 15.0, 0.2
#: Viewers at a time; steps that may wait for one of them.
VIEWERS, WAITING = 16, 3
#: Seconds for which what grew is still going on; findings that are kept.
GOING_ON, FINDINGS = 60.0, 200
#: What holds, or does not; all others count what happened.
_STATES = frozenset({"TD401", "TD402", "TD403", "TD404", "TD405", "TD406", "TD413"})
_BAD = frozenset({Severity.WARNING, Severity.FAULT})
_ACCOUNT = ("name", "tickets", "delivered", "dropped", "unconfirmed", "lost", "unknown")
_TOPIC = (
    "id", "name", "class", "priority", "framing", "policy", "path", "reason", "epoch",
    "received", "fast", "slow", "refused", "lost", "passed", "replies", "lost_before",
)  # fmt: skip

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Full(Exception):
    """There are as many viewers as there may be."""


class Viewer:
    """One who looks: steps that wait to be sent."""

    def __init__(self) -> None:
        self.steps: asyncio.Queue[bytes] = asyncio.Queue(WAITING)
        self.fresh = True
        self.gone = False


class Verdict:
    """What is wrong, and since when: by the wall clock, Unix seconds."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], dict[str, Any]] = {}

    def judge(self, tried: list[Tried], at: float) -> list[tuple[str, dict[str, Any]]]:
        """Take note of what is found now; gives what began, grew again, or is over, by these words."""
        found = list(judge(SERVING.checks, few(tried)[0][:FINDINGS], Asked()))
        now = {(each.code, each.subject): each for each in found if not each.had}
        over = [key for key in self._known if key not in now]
        told = [("over", self._known.pop(key)) for key in over]
        for key, each in now.items():
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = {"code": each.code, "subject": each.subject, "since": at}
                told.append(("began", known))
            elif known["cause"] != each.cause and at - known["changed"] > GOING_ON:
                told.append(("goes on", known))
            if known.get("cause") != each.cause:
                known.update(cause=each.cause, changed=at)
            known.update(name=each.name, severity=each.severity.value, means=each.means, fix=each.fix)
        return told

    def document(self, at: float) -> list[dict[str, Any]]:
        """All of it, the worst first. ``now``: it holds, or went on within the last minute."""
        rows = [
            {**each, "now": each["code"] in _STATES or at - each["changed"] < GOING_ON}
            for each in self._known.values()
        ]
        return sorted(rows, key=lambda row: (not row["now"], row["severity"] not in ("warning", "fault"),
                                             -row["changed"]))  # fmt: skip


class Feed:
    """Steps of what ``told`` tells."""

    def __init__(self, told: Documents) -> None:
        self._told = told
        self._viewers: set[Viewer] = set()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._verdict = Verdict()
        self._log = told.changes.of(Kind.WRONG, logging.getLogger("tempos.broker.wrong"))
        #: What was told of topics; of most of them nothing is kept while nobody looks.
        self._briefs: dict[int, tuple[tuple[object, ...] | None, bytes, list[Tried]]] = {}
        self._parts: dict[str, bytes] = {}
        self._seen = 0
        self._closed = False
        #: Viewers that did not take their steps.
        self.let_go = 0

    def begin(self) -> None:
        """Judge from now on."""
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="feed those who look")

    async def close(self) -> None:
        """Tell nobody any more; everyone's stream ends."""
        self._closed = True
        for each in list(self._viewers):
            self._end(each)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def look(self, steps: int | None = None) -> AsyncIterator[bytes]:
        """The state, then what changes: so many steps, or for ever; raises :class:`Full`."""
        if len(self._viewers) >= VIEWERS or self._closed:
            raise Full
        viewer = Viewer()
        self._viewers.add(viewer)
        self.begin()
        self._wake.set()
        return self._stream(viewer, steps)

    async def _stream(self, viewer: Viewer, steps: int | None) -> AsyncIterator[bytes]:
        try:
            while not (viewer.gone and viewer.steps.empty()) and steps != 0:
                yield await viewer.steps.get()
                steps = None if steps is None else steps - 1
        finally:
            self._viewers.discard(viewer)

    def _end(self, viewer: Viewer) -> None:
        viewer.gone = True
        self._viewers.discard(viewer)
        while not viewer.steps.empty():
            viewer.steps.get_nowait()
        viewer.steps.put_nowait(b": the end\n\n")

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self._step()
            except Exception:
                # Nobody is told then; the next one may be made.
                self._log.logger.exception("what viewers are told could not be made")
            took = time.monotonic() - began
            await asyncio.sleep(max(EVERY - took, took * (1 / SHARE - 1)))
            if not self._viewers:
                self._wake.clear()
                try:
                    await in_time(self._wake.wait(), UNSEEN)
                except asyncio.TimeoutError:
                    continue

    # --- a step -----------------------------------------------------------------------------

    async def _step(self) -> None:
        at = time.time()
        head = self._told.status_head()
        head["broker"]["started"] = round(at - head["broker"].pop("uptime_s"))
        slices, seen = Slices(), bool(self._viewers)
        tried = list(look({**head, "topics": ()}))
        changed, present = [], set()
        for state in self._told.present():
            topic = state.route.topic.id
            present.add(topic)
            found, is_new = await self._brief(state, slices, seen=seen)
            tried += found
            if is_new:
                changed.append(topic)
        gone = [topic for topic in self._briefs if topic not in present]
        for topic in gone:
            del self._briefs[topic]
        if head["broker"]["awaited"] or not head["broker"]["ready"]:
            waits = "; ".join(str(each["what"]) for each in head["broker"]["awaited"])
            tried.append(Tried("TD401", False, f"waits for {waits}" if waits else "not ready"))
        for how, each in self._verdict.judge(tried, at):
            self._tell(how, each)
        fields = {key: _encode(value).encode() for key, value in head.items()}
        fields["wrong"] = _encode(self._verdict.document(at)).encode()
        news = {key: value for key, value in fields.items() if self._parts.get(key) != value}
        self._parts = fields
        changes = [_encode(each.document()).encode() for each in self._told.changes.since(self._seen)]
        self._seen = self._told.changes.last
        # Who has come meanwhile has the next one, if this one is for nobody.
        fresh = [viewer for viewer in self._viewers if viewer.fresh and seen]
        followers = [viewer for viewer in self._viewers if not viewer.fresh]
        if followers:
            step = _event("step", at, news, [self._briefs[each][1] for each in changed], gone, changes)
            self._send(followers, step)
        if fresh:
            every = [_encode(each.document()).encode() for each in self._told.changes.since()]
            await slices.pause()
            whole = _event("state", at, fields, [each[1] for each in self._briefs.values()], [], every)
            self._send(fresh, whole)

    def _send(self, viewers: list[Viewer], step: bytes) -> None:
        for viewer in viewers:
            viewer.fresh = False
            if viewer.steps.full():
                self.let_go += 1
                self._end(viewer)
            else:
                viewer.steps.put_nowait(step)

    def _tell(self, how: str, each: Mapping[str, Any]) -> None:
        subject = f" ({each['subject']})" if each["subject"] else ""
        bad = each["severity"] in ("warning", "fault")
        words = f"{each['code']} {each['name']}{subject}"
        if how == "over":
            self._log.info("%s is over", words)
        else:
            again = " goes on" if how == "goes on" else ""
            self._log.log(logging.WARNING if bad else logging.INFO, "%s%s: %s", words, again, each["cause"])

    async def _brief(self, state: TopicState, slices: Slices, *, seen: bool) -> tuple[list[Tried], bool]:
        """Judge a topic anew, and tell it, without its members, if that is ``seen`` by anybody.

        Gives what was found, and whether it is another one than before.
        """
        topic = state.route.topic.id
        known = self._briefs.get(topic)
        rests_on = None if self._told.have_counted([topic]) else self._told.rests_on(state)
        if (
            known is not None
            and (known[1] or not seen)
            and rests_on is not None
            and known[0] is not None
            and len(known[0]) == len(rests_on)
            and all(a is b for a, b in zip(known[0], rests_on, strict=True))
        ):
            if not seen and known[1]:
                self._briefs[topic] = rests_on, b"", known[2]
            return known[2], False
        document = self._told.tell(state, iter)
        groups = []
        for group in document["groups"]:
            members = []
            for member in group["members"]:
                members.append(member)
                await slices.pause()
            groups.append({**group, "members": members})
        document["groups"] = groups
        found = list(of_topic(document))
        made = _encode(_brief_of(document)).encode() if seen else b""
        if seen or rests_on is not None:
            self._briefs[topic] = rests_on, made, found
        else:
            self._briefs.pop(topic, None)
        await slices.pause()
        return found, known is None or known[1] != made


def _brief_of(document: Mapping[str, Any]) -> dict[str, Any]:
    latency = document["latency"]
    return {
        **{key: document[key] for key in _TOPIC},
        "latency": latency and {
            name: each and {key: each[key] for key in ("count", "p50_ns", "p99_ns", "max_ns")}
            for name, each in latency.items()
        },
        "groups": [
            {
                **{key: group[key] for key in _ACCOUNT},
                "members": len(group["members"]),
                "waiting": sum(each["waiting"] or 0 for each in group["members"]),
                "left_out": sum(1 for each in group["members"] if each["left_out"] or each["unheard"]),
            }
            for group in document["groups"]
        ],
    }  # fmt: skip


def _event(
    name: str,
    at: float,
    fields: Mapping[str, bytes],
    topics: list[bytes],
    gone: list[int],
    changes: list[bytes],
) -> bytes:
    """A server-sent event; JSON has no line breaks in it."""

    def parts() -> Iterator[bytes]:
        yield f'event: {name}\ndata: {{"at":{at:.3f}'.encode()
        for key, value in fields.items():
            yield b',"%s":%s' % (key.encode(), value)
        yield b',"topics":[' + b",".join(topics) + b'],"gone":' + _encode(gone).encode()
        yield b',"changes":[' + b",".join(changes) + b"]}\n\n"

    return b"".join(parts())
