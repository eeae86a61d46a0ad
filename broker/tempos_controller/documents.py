"""What the Controller tells of itself, its parts and its workflows, as JSON values."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from tempos import __version__
from tempos_controller.config.model import Workflow
from tempos_controller.force.engine import Engine
from tempos_controller.parts.http import Away, Refused


class Documents:
    """Told from the engine."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._began = time.monotonic()

    # --- the whole --------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Everything a person looks for first."""
        engine = self._engine
        platform = engine.platform
        return {
            "name": self._name,
            "version": __version__,
            "pid": os.getpid(),
            "up_s": time.monotonic() - self._began,
            "ready": engine.ready,
            "changing": engine.changing,
            "amiss": dict(engine.amiss),
            "state": str(engine.store.folder),
            "parts": [self._part(what) for what in engine.fleet.remotes],
            "workflows": len(platform.workflows),
            "functions": len(platform.functions),
            "triggers": len(platform.triggers),
            "nodes": len(platform.nodes),
        }

    def _part(self, what: str) -> dict[str, Any]:
        engine = self._engine
        host, port = engine.fleet.remotes[what].address
        child = engine.fleet.child_of(what)
        now = time.monotonic()
        found: dict[str, Any] = {
            "name": what,
            "api": f"http://{host}:{port}",
            "started_here": child is not None,
            "amiss": engine.amiss.get(what, ""),
        }
        if child is not None:
            found |= {
                "state": child.state,
                "pid": child.pid,
                "up_s": None if child.since is None else now - child.since,
                "restarts": child.restarts,
                "reason": child.reason,
                "starts_in_s": None if child.next_start is None else max(0.0, child.next_start - now),
                "log": str(child.log_file),
            }
        return found

    # --- what is wanted ---------------------------------------------------------------------

    def items(self, kind: str) -> list[dict[str, Any]]:
        """All of a kind, in order, each with its document."""
        return [self.item(kind, name) for name in self._engine.desired.items.get(kind, {})]

    def item(self, kind: str, name: str) -> dict[str, Any]:
        """One; raises :class:`KeyError`."""
        desired = self._engine.desired
        document = desired.items.get(kind, {})[name]
        found = {"name": name, "origin": desired.origins[f"{kind}/{name}"], "document": document}
        if kind == "workflow":
            found |= _workflow(next(each for each in self._engine.platform.workflows if each.name == name))
        elif kind in ("function", "trigger"):
            found["workflows"] = [
                each.name
                for each in self._engine.platform.workflows
                if name in each.triggers or name in {step.function for step in each.steps}
            ]
        return found

    async def workflow(self, name: str) -> dict[str, Any]:
        """One workflow with what its parts count; raises :class:`KeyError`."""
        found = self.item("workflow", name)
        told = await self.told()
        away = sorted(what for what, status in told.items() if not status)
        return {**self.joined(found, lambda what: told.get(what, {})), "away": away}

    def joined(self, item: Mapping[str, Any], said: Callable[[str], Mapping[str, Any]]) -> dict[str, Any]:
        """A workflow with the ``accounts`` of its steps and its ``endpoints``, by what each part ``said``."""
        name = item["name"]
        steps = [
            {
                **step,
                "accounts": [
                    {"node": node, **account}
                    for node in step["nodes"]
                    for account in said(f"invoker {node}").get("steps", ())
                    if isinstance(account, dict)
                    and account.get("workflow") == name
                    and str(account.get("name", "")).rstrip("~") == step["name"]
                ],
            }
            for step in item["steps"]
        ]
        nodes = {each.name: each.node for each in self._engine.platform.triggers}
        endpoints = [
            {"node": nodes[trigger], **endpoint}
            for trigger in item["triggers"]
            for endpoint in said(f"trigger {nodes[trigger]}").get("endpoints", ())
            if isinstance(endpoint, dict) and endpoint.get("name") == trigger
        ]
        return {**item, "steps": steps, "endpoints": endpoints}

    async def logs(self, name: str) -> dict[str, Any]:
        """What the functions of a workflow wrote; raises :class:`KeyError`."""
        steps = self.item("workflow", name)["steps"]
        invokers = self._engine.fleet.invokers
        asked = sorted({(node, step["function"]) for step in steps for node in step["nodes"]})
        logs, away = [], set()
        for node, function in asked:
            try:
                found = await invokers[node].logs(function)
            except Refused:
                # It has the function no more, or not yet.
                continue
            except Away as error:
                away.add(error.what)
                continue
            where = f"{function} on {node}"
            logs.append({"where": where, "lines": found["lines"], "left_out": found["left_out"]})
        return {"logs": logs, "away": sorted(away)}

    async def told(self) -> dict[str, dict[str, Any]]:
        """What each invoker and trigger says of itself now; nothing of those that give no answer."""
        fleet = self._engine.fleet

        async def ask(part: Any) -> tuple[str, dict[str, Any]]:
            try:
                return part.remote.what, await part.status()
            except (Away, Refused):
                return part.remote.what, {}

        parts = (*fleet.invokers.values(), *fleet.triggers.values())
        return dict(await asyncio.gather(*map(ask, parts)))

    def log_of(self, what: str, lines: int) -> list[str]:
        """The last lines of the log of a part that was started here; raises :class:`KeyError`."""
        child = self._engine.fleet.child_of(what)
        if child is None:
            raise KeyError(what)
        try:
            with child.log_file.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - lines * 400))
                found = file.read().decode(errors="replace").splitlines()
        except OSError:
            return []
        return found[-lines:]


def _workflow(workflow: Workflow) -> Mapping[str, Any]:
    return {
        "class": workflow.quality.value,
        "topic": workflow.topic,
        "triggers": list(workflow.triggers),
        "steps": [
            {
                "name": step.name,
                "function": step.function,
                "topic": step.topic,
                "group": step.group,
                "result": step.result,
                "error": step.error,
                "reply": step.reply,
                "nodes": list(step.nodes),
            }
            for step in workflow.steps
        ],
    }
