"""What viewers of the live page are told: the state once, then what of it changed, at most once a second.

``GET /v1/events``. The parts are asked once, however many look; also while nobody does, though rarely: so it
is known since when something is wrong.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from tempos.doctor.findings import Tried
from tempos_controller.commands.rates import Counts, Rates, counts_of_endpoint, counts_of_step
from tempos_controller.documents import Documents
from tempos_controller.force.engine import Engine
from tempos_controller.watch.findings import CHECKS, STATES, of_parts, of_workflow
from tempos_controller.watch.look import Looking
from tempos_daemon.slices import Slices
from tempos_daemon.verdict import Verdict
from tempos_daemon.viewers import Viewers, encoded, event

#: Seconds between two steps without viewers.
UNSEEN = 5.0
#: Characters of what a daemon said last; the rest is in its log.
LONGEST = 160
#: What follows from a broker that is away; what is so for a moment whenever something begins, and how long.
_FOLLOWS, _BEGINS, SETTLED = frozenset({"TD606", "TD608"}), frozenset({"TD606", "TD607", "TD608"}), 5.0
#: Of what the status says of a part, what viewers are told.
_PART = ("name", "api", "started_here", "pid", "restarts", "log")


class Feed:
    """Steps of what an engine and its parts say."""

    def __init__(self, engine: Engine, documents: Documents) -> None:
        self._engine = engine
        self._documents = documents
        self._looking = Looking(engine)
        self._rates = Rates()
        self._verdict = Verdict(CHECKS, STATES)
        self._log = engine.changes.of("wrong", logging.getLogger("tempos.controller.wrong"))
        self._viewers = Viewers(self._step, self._log.logger, unseen=UNSEEN)
        #: Of each part its state, and since when (Unix seconds) it is that.
        self._states: dict[str, tuple[str, float]] = {}
        self._fields: dict[str, bytes] = {}
        self._workflows: dict[str, bytes] = {}
        self._begun: dict[tuple[str, str], float] = {}
        self._seen = 0

    def begin(self) -> None:
        """Judge from now on."""
        self._viewers.begin()

    async def close(self) -> None:
        """Tell nobody any more; everyone's stream ends."""
        await self._viewers.close()
        await self._looking.close()

    def look(self, steps: int | None = None) -> AsyncIterator[bytes]:
        """The state, then what changes: so many steps, or for ever; raises :class:`Full`."""
        return self._viewers.look(steps)

    async def wrong(self) -> list[dict[str, Any]]:
        """What is wrong, or went wrong, as the page shows it; a second ago at most."""
        await self._viewers.fresh()
        return self._verdict.document(time.time())

    # --- a step -----------------------------------------------------------------------------

    async def _step(self) -> None:
        seen, slices = bool(self._viewers), Slices()
        await self._looking.look(paths=seen)
        at = round(time.time(), 3)
        status = self._documents.status()
        parts = [self._part(each, at) for each in status["parts"]]
        tried = list(of_parts(parts, status["amiss"])) + list(self._happened(status))
        workflows, counts = [], {}
        for item in self._documents.items("workflow"):
            workflow, counted = self._workflow(item)
            workflows.append(workflow)
            counts.update(counted)
            await slices.pause()
        rates = self._rates.look(counts, time.monotonic())
        is_away = any(each["name"] == "broker" and each["state"] == "away" for each in parts)
        made = {}
        for workflow in workflows:
            found = of_workflow(workflow)
            tried += [each for each in found if not (is_away and each.check in _FOLLOWS)]
            for sort in ("trigger", "step"):
                for each in workflow[f"{sort}s"]:
                    rate = rates[workflow["name"], f"{sort} {each['name']}"]
                    each["rate"] = {what: value and round(value, 1) for what, value in rate.items()}
            made[workflow["name"]] = encoded(workflow)
            await slices.pause()
        for how, each in self._verdict.judge(self._settled(tried), at):
            self._tell(how, each)
        head = {"controller": self._controller(status, at), "parts": parts, "paths": self._paths(workflows)}
        self._send(at, {**head, "wrong": self._verdict.document(at)}, made)

    def _send(self, at: float, head: Mapping[str, Any], made: dict[str, bytes]) -> None:
        fields = {key: encoded(value) for key, value in head.items()}
        before, self._fields = self._fields, fields
        had, self._workflows = self._workflows, made
        changes = [encoded(each.document()) for each in self._engine.changes.since(self._seen)]
        self._seen = self._engine.changes.last
        fresh, followers = self._viewers.split()
        if followers:
            news = {key: value for key, value in fields.items() if before.get(key) != value}
            changed = [each for name, each in made.items() if had.get(name) != each]
            gone = [encoded(name) for name in had if name not in made]
            lists = {"workflows": changed, "gone": gone, "changes": changes}
            self._viewers.send(followers, [*event("step", at, news, lists)])
        if fresh:
            every = [encoded(each.document()) for each in self._engine.changes.since()]
            lists = {"workflows": list(made.values()), "gone": [], "changes": every}
            self._viewers.send(fresh, [*event("state", at, fields, lists)])

    def _settled(self, tried: list[Tried]) -> list[Tried]:
        """Without what may only be about to begin."""
        now = time.monotonic()
        begun = {(each.check, each.subject) for each in tried if each.check in _BEGINS}
        self._begun = {key: self._begun.get(key, now) for key in begun}
        return [each for each in tried if now - self._begun.get((each.check, each.subject), 0) >= SETTLED]

    def _happened(self, status: Mapping[str, Any]) -> Iterator[Tried]:
        if self._engine.not_done:
            yield Tried("TD609", False, self._engine.not_done, "the last change")
        for part in status["parts"]:
            if part["started_here"] and part["restarts"]:
                times = f"{part['restarts']:,} times" if part["restarts"] > 1 else "once"
                cause = f"started again {times}: the last time it had {part['reason']}"
                cause = cause if len(cause) <= LONGEST else f"{cause[:LONGEST]}..."
                yield Tried("TD610", False, cause, part["name"], fix=f"tail -n 30 {part['log']}")

    def _tell(self, how: str, each: Mapping[str, Any]) -> None:
        words = f"{each['code']} {each['name']} ({each['subject']})"
        if how == "over":
            self._log.info("%s is over", words)
        else:
            self._log.warning("%s%s: %s", words, " goes on" if how == "goes on" else "", each["cause"])

    # --- its pieces -------------------------------------------------------------------------

    @staticmethod
    def _controller(status: Mapping[str, Any], at: float) -> dict[str, Any]:
        keys = ("name", "version", "pid", "ready", "changing", "state", "functions")
        return {**{key: status[key] for key in keys}, "started": round(at - status["up_s"])}

    def _part(self, told: Mapping[str, Any], at: float) -> dict[str, Any]:
        """A part with its state, why it is that, and since when."""
        what, why = told["name"], self._looking.why_away(told["name"])
        state, since = "running", at
        if told["started_here"] and told["pid"] is None:
            state = "away"
            why = f"it {told['reason']}" if told["reason"] else "it is being started"
        elif why:
            state = "away"
        elif told["amiss"] and not told["amiss"].startswith("does not answer"):
            state, why = "not as wanted", told["amiss"]
        elif told["started_here"]:
            since = at - told["up_s"]
        before = self._states.get(what)
        if before is not None and before[0] == state and (state != "running" or since <= before[1] + 1):
            since = before[1]
        self._states[what] = state, since
        sort, _, node = what.partition(" ")
        found = {key: told.get(key) for key in _PART}
        return {**found, "sort": sort, "node": node, "state": state, "why": why, "since": round(since)}

    def _paths(self, workflows: list[dict[str, Any]]) -> dict[str, Any]:
        topics = {
            step[key] for each in workflows for step in each["steps"] for key in ("topic", "result", "error")
        }
        return {name: self._looking.paths[name] for name in sorted(topics) if name in self._looking.paths}

    def _workflow(self, item: Mapping[str, Any]) -> tuple[dict[str, Any], dict[tuple[str, str], Counts]]:
        """A workflow with what its parts said last, and what is counted of its triggers and steps."""
        name = item["name"]
        joined = self._documents.joined(item, self._looking.said)
        kinds = {each.name: each for each in self._engine.platform.triggers}
        counts: dict[tuple[str, str], Counts] = {}
        triggers, steps = [], []
        ends = {each["name"]: each for each in joined["endpoints"]}
        for each in item["triggers"]:
            trigger = kinds[each]
            told = ends.get(each, {})
            counted = counts[name, f"trigger {each}"] = counts_of_endpoint(told)
            source = told.get("source", {})
            where = source.get("url") or source.get("listen") or trigger.options.get("listen", "")
            triggers.append({
                "name": each, "kind": trigger.kind, "node": trigger.node, "where": where,
                "state": source.get("state", ""), "why_not": told.get("why_not") or told.get("shut", ""),
                "balanced": told.get("balanced", True),
                "dropped": {why: count for why, count in told.get("dropped", {}).items() if count},
                "answers": told.get("answers"), "away": self._is_away(f"trigger {trigger.node}"), **counted,
            })  # fmt: skip
        for step in joined["steps"]:
            counted = counts[name, f"step {step['name']}"] = counts_of_step(step["accounts"])
            accounts = [each["account"] for each in step["accounts"]]
            failures: dict[str, int] = {}
            for account in accounts:
                for why, count in account["failed"].items():
                    failures[why] = failures.get(why, 0) + count
            keys = ("name", "function", "group", "topic", "result", "error", "reply")
            steps.append({
                **{key: step[key] for key in keys},
                "failures": failures, "drift": sum(each["drift"] for each in accounts),
                "retries": sum(each["retries"] for each in accounts),
                "at": [self._at(node, step) for node in step["nodes"]], **counted,
            })  # fmt: skip
        found = {key: item[key] for key in ("name", "origin", "class", "topic")}
        return {**found, "triggers": triggers, "steps": steps}, counts

    def _at(self, node: str, step: Mapping[str, Any]) -> dict[str, Any]:
        """A step on one node: its workers, and what keeps it from events."""
        said = self._looking.said(f"invoker {node}")
        functions = [each for each in said.get("functions", ()) if each["name"] == step["function"]]
        function: Mapping[str, Any] = next((each for each in functions if not each["leaving"]), {})
        serving = sum(1 for each in function.get("workers", ()) if each["state"] == "serving")
        fault = ""
        if function and not function["ready"]:
            fault = function["fault"] or "no worker of it serves"
        sources = [each["source"] for each in step["accounts"] if each["node"] == node and each.get("source")]
        apart = ""
        if sources and not any(each["joined"] for each in sources):
            apart = sources[0]["reason"] or "it has not joined its group"
        return {
            "node": node, "away": self._is_away(f"invoker {node}"), "mode": function.get("mode", ""),
            "workers": serving, "of": function.get("concurrency", 0), "fault": fault, "apart": apart,
        }  # fmt: skip

    def _is_away(self, what: str) -> bool:
        return self._states.get(what, ("", 0.0))[0] == "away"
