"""What viewers are told while they look: the state once, then what of it changed, at most once a second.

``GET /v1/events``. Rule: a step is made in slices of the event loop, and of topics that rest nothing is made
that was made before. What is wrong is judged by the checks of `tempos doctor`, also while nobody looks, but
rarely: so it is known since when it is.
"""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from tempos.doctor.findings import Tried
from tempos.doctor.serving import FLEET, SERVING, look, of_topic
from tempos_broker.account.changes import Kind
from tempos_broker.api.alike import Alike
from tempos_broker.api.snapshot import together
from tempos_broker.documents import Documents
from tempos_broker.state import TopicState
from tempos_daemon.slices import Slices
from tempos_daemon.verdict import Verdict
from tempos_daemon.viewers import Viewers, encoded, event

#: Seconds between two steps without viewers.
UNSEEN = 15.0
#: What holds, or does not; all others count what happened.
STATES = frozenset({"TD401", "TD402", "TD403", "TD404", "TD405", "TD406", "TD413", "TD426", *FLEET})
#: Least figures, which what members tell later may make less for a while.
UNSTEADY = frozenset({"TD414"})
_ACCOUNT = ("name", "tickets", "delivered", "dropped", "unconfirmed", "lost", "unknown")
_TOPIC = (
    "id", "name", "class", "priority", "framing", "policy", "path", "reason", "epoch",
    "received", "fast", "slow", "refused", "lost", "passed", "replies", "lost_before",
)  # fmt: skip


class Feed:
    """Steps of what ``told`` tells."""

    def __init__(self, told: Documents) -> None:
        self._told = told
        self._verdict = Verdict(SERVING.checks, STATES, UNSTEADY, goes_on=True)
        self._log = told.changes.of(Kind.WRONG, logging.getLogger("tempos.broker.wrong"))
        self._alike = Alike(told, lambda state: _brief_of(told.tell(state)))
        #: What was told of topics, and what it rests on; nothing while nobody looks.
        self._briefs: dict[int, tuple[tuple[object, ...] | None, bytes, list[Tried]]] = {}
        self._parts: dict[str, bytes] = {}
        self._seen = 0
        self._viewers = Viewers(self._step, self._log.logger, unseen=UNSEEN)

    def begin(self) -> None:
        """Judge from now on."""
        self._viewers.begin()

    async def close(self) -> None:
        """Tell nobody any more; everyone's stream ends."""
        await self._viewers.close()

    def look(self, steps: int | None = None) -> AsyncIterator[bytes]:
        """The state, then what changes: so many steps, or for ever; raises :class:`Full`."""
        return self._viewers.look(steps)

    async def wrong(self) -> dict[str, Any]:
        """What is wrong, or went wrong, as the page shows it; a second ago at most."""
        await self._viewers.fresh()
        at = round(time.time(), 3)
        return {"at": at, "wrong": self._verdict.document(at)}

    # --- a step -----------------------------------------------------------------------------

    async def _step(self) -> None:
        at = round(time.time(), 3)
        head = self._told.status_head()
        head["broker"]["started"] = round(at - head["broker"].pop("uptime_s"))
        slices, seen = Slices(), bool(self._viewers)
        tried = list(look({**head, "topics": ()}))
        changed, present = [], set()
        if not seen:
            self._briefs.clear()
            self._alike.forget()
        for some in together(self._told.present()):
            counted = self._told.have_counted([state.route.topic.id for state in some])
            for state in some:
                topic = state.route.topic.id
                if not self._told.is_present(state):
                    continue
                present.add(topic)
                rests_on = None if topic in counted else self._told.rests_on(state)
                if rests_on is None:
                    found, is_new = await self._moving(state, slices, seen=seen)
                else:
                    found, is_new = self._resting(state, rests_on, seen=seen)
                tried += found
                if is_new:
                    changed.append(topic)
                await slices.pause()
        gone = []
        # While anybody looks each that is present has its brief.
        for topic in list(self._briefs) if len(self._briefs) != len(present) else ():
            if topic not in present:
                gone.append(topic)
                del self._briefs[topic]
            await slices.pause()
        if head["broker"]["awaited"] or not head["broker"]["ready"]:
            waits = "; ".join(str(each["what"]) for each in head["broker"]["awaited"])
            tried.append(Tried("TD401", False, f"waits for {waits}" if waits else "not ready"))
        for how, each in self._verdict.judge(tried, at):
            self._tell(how, each)
        fields = {key: encoded(value) for key, value in head.items()}
        fields["wrong"] = encoded(self._verdict.document(at))
        news = {key: value for key, value in fields.items() if self._parts.get(key) != value}
        self._parts = fields
        changes = [encoded(each.document()) for each in self._told.changes.since(self._seen)]
        self._seen = self._told.changes.last
        # Who has come meanwhile has the next one, if this one is for nobody.
        fresh, followers = self._viewers.split()
        if followers:
            topics = (self._briefs[each][1] for each in changed)
            lists = {"topics": topics, "gone": map(encoded, gone), "changes": changes}
            self._viewers.send(followers, [each async for each in slices.of(event("step", at, news, lists))])
        if fresh and seen:
            every = [encoded(each.document()) for each in self._told.changes.since()]
            await slices.pause()
            topics = (each[1] for each in self._briefs.values())
            lists = {"topics": topics, "gone": (), "changes": every}
            self._viewers.send(fresh, [each async for each in slices.of(event("state", at, fields, lists))])

    def _tell(self, how: str, each: Mapping[str, Any]) -> None:
        subject = f" ({each['subject']})" if each["subject"] else ""
        bad = how != "before" and each["severity"] in ("warning", "fault")
        words = f"{each['code']} {each['name']}{subject}"
        if how == "over":
            self._log.info("%s is over", words)
        else:
            again = {"goes on": " goes on", "before": ", before this start"}.get(how, "")
            self._log.log(logging.WARNING if bad else logging.INFO, "%s%s: %s", words, again, each["cause"])

    def _resting(
        self, state: TopicState, rests_on: tuple[object, ...], *, seen: bool
    ) -> tuple[list[Tried], bool]:
        """Judge a topic that rests, and tell it, without its members, if that is ``seen`` by anybody.

        Gives what was found, and whether it is another one than before.
        """
        topic = state.route.topic.id
        known = self._briefs.get(topic)
        if known is not None and known[0] is not None and all(map(operator.is_, known[0], rests_on)):
            return known[2], False
        found = list(of_topic(self._told.brief(state)))
        if not seen:
            return found, False
        made = self._alike.of(state) or encoded(_brief_of(self._told.tell(state)))
        self._briefs[topic] = rests_on, made, found
        return found, known is None or known[1] != made

    async def _moving(self, state: TopicState, slices: Slices, *, seen: bool) -> tuple[list[Tried], bool]:
        """The same of one that does not."""
        topic = state.route.topic.id
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
        if not seen:
            return found, False
        known, made = self._briefs.get(topic), encoded(_brief_of(document))
        self._briefs[topic] = None, made, found
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
