"""From what is in force to what is wanted, in an order in which no event is lost.

    1  topics that are new or changed
    2  invokers begin with what is new; of a chain the last first where events may come by now. What moves to
       another topic or group begins there, and goes on at its former place under another name
    3  invokers: functions and limits change, and results go elsewhere, where somebody is by now
    4  triggers: from here on signals become events of the new topics only
    5  invokers let go of what nothing comes to any more, a step at a time from the chain's beginning: one
       that leaves has drained, so all it made of its last events has reached the next
    6  topics that nobody needs

Pure: two values in, a list of actions out. What two stages have in common is done once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tempos import names
from tempos_controller.plan.actions import (
    Action,
    ChangeTopic,
    MakeTopic,
    PutCalls,
    PutSignals,
    RemoveTopic,
)
from tempos_controller.plan.wanted import Calls, Parts, Signals, StepDocument

Key = tuple[str, str]
#: A step of a node.
At = tuple[str, Key]
#: Behind the name of a step that is still at its former place.
FORMER = "~"


def plan(now: Parts, wanted: Parts) -> list[Action]:
    """What to do, in order; nothing if all is as wanted.

    ``now.topics``: those that are the Controller's to change. A node that only ``now`` has is to do nothing.
    """
    return [
        *_topics(now.topics, wanted.topics),
        *_invokers_and_triggers(now, wanted),
        *(RemoveTopic(name) for name in sorted(now.topics.keys() - wanted.topics.keys())),
    ]


def _topics(
    now: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Mapping[str, Any]]
) -> Iterable[Action]:
    for name in sorted(wanted):
        if name not in now:
            yield MakeTopic(name, wanted[name])
            continue
        before, after = now[name], wanted[name]
        keys = sorted(before.keys() | after.keys())
        if changes := {key: after.get(key) for key in keys if before.get(key) != after.get(key)}:
            yield ChangeTopic(name, changes)


def _invokers_and_triggers(now: Parts, wanted: Parts) -> list[Action]:
    changes: dict[str, _Change] = {}
    for node in sorted(now.invokers.keys() | wanted.invokers.keys()):
        before = now.invokers.get(node, Calls())
        changes[node] = _Change(before, wanted.invokers.get(node, Calls(before.broker)))
    at = {node: change.before for node, change in changes.items()}
    actions: list[Action] = []

    def go(target: Callable[[_Change, set[Key]], Calls], those: Iterable[At] = ()) -> None:
        for node, change in changes.items():
            after = target(change, {key for where, key in those if where == node})
            if after != at[node]:
                actions.append(PutCalls(node, at[node], after))
                at[node] = after

    new = {(node, key): step for node, change in changes.items() for key, step in change.new.items()}
    made = wanted.topics.keys() - now.topics.keys()
    levels = list(_from_the_beginning(new))
    # To a topic that is only just made nobody publishes yet.
    apart = any(step["topic"] not in made for step in new.values())
    begun: set[At] = set()
    for level in reversed(levels if apart else [set(new)]):
        begun |= level
        go(_Change.begun, begun)
    go(_Change.turned)
    actions += _triggers(now.triggers, wanted.triggers)
    leaving = {(node, key): step for node, change in changes.items() for key, step in change.leaving.items()}
    left: set[At] = set()
    for gone in _from_the_beginning(leaving):
        left |= gone
        go(_Change.left, left)
    go(_Change.settled)
    return actions


def _triggers(now: Mapping[str, Signals], wanted: Mapping[str, Signals]) -> Iterable[Action]:
    for node in sorted(now.keys() | wanted.keys()):
        before = now.get(node, Signals())
        after = wanted.get(node, Signals(before.broker))
        if before != after:
            yield PutSignals(node, before, after)


class _Change:
    """One invoker's way from what it does to what it is to do."""

    def __init__(self, before: Calls, after: Calls) -> None:
        self.before = before
        self.after = after
        both = before.steps.keys() & after.steps.keys()
        moved = {key for key in both if _place(before.steps[key]) != _place(after.steps[key])}
        stay = both - moved
        self._moved = {key: _former(key, before) for key in sorted(moved)}
        #: What is at its place for the first time, by key.
        self.new = {key: step for key, step in after.steps.items() if key not in stay}
        #: What is served until nothing comes there any more.
        self.leaving = {
            **{key: step for key, step in before.steps.items() if key not in both},
            **dict(self._moved.values()),
        }

    def begun(self, which: set[Key]) -> Calls:
        """So much of what is new has begun, beside all that there was."""
        new = {key: self.new[key] for key in which}
        former = dict(self._moved[key] for key in which & self._moved.keys())
        return self._with({**self.before.steps, **former, **new}, self.before)

    def turned(self, _: set[Key]) -> Calls:
        """All is as it is to be, and what is to leave is still there."""
        return self._with({**self.leaving, **self.after.steps}, self.after)

    def left(self, gone: set[Key]) -> Calls:
        """The same without those that have left, and without functions that only they needed."""
        leaving = {key: step for key, step in self.leaving.items() if key not in gone}
        return self._with({**leaving, **self.after.steps}, self.after)

    def settled(self, _: set[Key]) -> Calls:
        """At the end of the way."""
        return self.after

    def _with(self, steps: Mapping[Key, StepDocument], first: Calls) -> Calls:
        """These steps and the functions that they need, each as ``first`` has it if it does.

        No two at one place: it goes on under the name that it is to have.
        """
        at: dict[tuple[Any, Any], Key] = {}
        for key in sorted(steps, key=lambda key: steps[key] == self.after.steps.get(key)):
            at[_place(steps[key])] = key
        steps = {key: steps[key] for key in at.values()}
        known = {**self.before.functions, **self.after.functions, **first.functions}
        needed = {step["function"] for step in steps.values()}
        functions = {name: known[name] for name in sorted(needed) if name in known}
        return Calls(first.broker or self.after.broker, functions, dict(steps))


def _place(step: StepDocument) -> tuple[Any, Any]:
    return step["topic"], step.get("group") or f"{step['workflow']}/{step['name']}"


def _former(key: Key, before: Calls) -> tuple[Key, StepDocument]:
    """A step at the place that it is about to leave, under a name of its own."""
    workflow, name = key
    step = before.steps[key]
    while (workflow, name) in before.steps:
        name += FORMER
    return (workflow, name), {**step, "name": name, "group": step.get("group") or "/".join(key)}


def _from_the_beginning(steps: Mapping[At, StepDocument]) -> Iterable[set[At]]:
    """Steps by how far they are from where their events come in."""
    left = dict(steps)
    while left:
        fed = {
            each
            for each, step in left.items()
            if any(_feeds(other, step) for key, other in left.items() if key != each)
        }
        # In a circle, which no file may have but another's document could, all go together.
        first = left.keys() - fed or set(left)
        yield set(first)
        left = {each: step for each, step in left.items() if each not in first}


def _feeds(step: StepDocument, other: StepDocument) -> bool:
    outs = (step.get("result"), step.get("error"))
    return any(out and names.matches(other["topic"], out) for out in outs)
