"""Workflows as their tables mean them: names, topics and classes that a table leaves out are filled in.

Works on whatever is sound, so that the rules can tell all faults of a file at once. A class that nobody
states is that of whoever shares the topic: what flows from a strict workflow stays strict.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tempos import Quality, names
from tempos_daemon.schema import Table


@dataclass(slots=True)
class StepDraft:
    """A step; a value that is faulty in the file is None."""

    table: Table
    workflow: WorkflowDraft
    name: str | None
    topic: str | None
    result: str | None
    error: str | None
    reply: bool

    @property
    def group(self) -> str | None:
        """As given, else named for what it is."""
        if "group" not in self.table.values:
            return None
        given: str | None = self.table.get("group")
        if given is not None or self.name is None or self.workflow.name is None:
            return given
        return f"{self.workflow.name}/{self.name}"

    @property
    def nodes(self) -> tuple[str, ...] | None:
        """Where it is said to run; None: where everything does."""
        return self.table.get("node") or self.workflow.table.get("node") or None


@dataclass(slots=True)
class WorkflowDraft:
    """A workflow. ``quality``: stated or found; None: nobody says."""

    table: Table
    name: str | None
    topic: str | None
    quality: Quality | None
    steps: list[StepDraft] = field(default_factory=list)

    @property
    def topics(self) -> set[str]:
        """Those whose class is this workflow's: all that its events go through."""
        found = {self.topic, *(step.topic for step in self.steps), *(step.result for step in self.steps)}
        return {each for each in found if each and not names.is_filter(each)}


def drafts(workflows: Iterable[Table]) -> list[WorkflowDraft]:
    """Each with its steps, and the classes that follow from what they share."""
    found = [_workflow(table) for table in workflows]
    _spread_classes(found)
    return found


def _workflow(table: Table) -> WorkflowDraft:
    draft = WorkflowDraft(table, table.get("name"), table.get("topic"), table.get("class"))
    before = draft.topic
    tables: tuple[Table, ...] = table.get("step") or ()
    for index, each in enumerate(tables):
        name = each.get("name") or each.get("function")
        result: str | None = None
        if "result" in each.values:
            result = each.get("result")
            if result is None:
                # The next one goes by it, so it is there; the last one's is nobody's unless it is named.
                following = index + 1 < len(tables) and tables[index + 1].get("topic") is None
                result = f"{draft.name}/{name}" if following and draft.name and name else ""
        topic = each.get("topic") if "topic" not in each.values or each.get("topic") else before
        error = each.get("error") if each.get("error") is not None else table.get("error")
        reply = each.get("reply") if each.get("reply") is not None else index + 1 == len(tables)
        draft.steps.append(StepDraft(each, draft, name, topic, result, error, bool(reply)))
        before = result
    return draft


def home(nodes: Sequence[Table], quality: Quality | None) -> str | None:
    """The node of what names none: the first for this class, else the first for any; None: there are none."""
    for wanted in (quality or Quality.BQ, None):
        for node in nodes:
            if node.get("class") is wanted:
                name: str | None = node.get("name")
                return name
    return nodes[0].get("name") if nodes else None


def class_of_trigger(name: str, workflows: Iterable[WorkflowDraft]) -> Quality | None:
    """The strictest class of those whom a trigger feeds; None: nobody."""
    found = {each.quality for each in workflows if name in (each.table.get("trigger") or ())}
    return Quality.SQ if Quality.SQ in found else Quality.BQ if found else None


def _spread_classes(workflows: list[WorkflowDraft]) -> None:
    """Give those that state no class the one of a topic that they share, as far as that leads."""
    silent = [each for each in workflows if each.quality is None and "class" in each.table.values]
    known: dict[str, Quality] = {}
    for each in workflows:
        if each.quality is not None:
            known.update(dict.fromkeys(each.topics, each.quality))
    while found := next((each for each in silent if each.topics & known.keys()), None):
        found.quality = known[min(found.topics & known.keys())]
        silent.remove(found)
        for topic in found.topics:
            known.setdefault(topic, found.quality)
