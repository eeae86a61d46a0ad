"""The planner: it arrives, and on the way there nothing is published that nobody is there to take.

Platforms are small and made at random: topics in a row, so that nothing goes in circles; steps and endpoints
that come, go, move and change. After each action it is looked who publishes what, and who is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tempos_controller.plan.actions import Action, ChangeTopic, MakeTopic, PutCalls, PutSignals, RemoveTopic
from tempos_controller.plan.planner import plan
from tempos_controller.plan.wanted import Calls, Parts, Signals

NODES = ("a", "b")
TOPICS = tuple(f"t{number}" for number in range(5))
BROKER = {"address": "10.0.0.1"}


@st.composite
def platforms(draw: st.DrawFn) -> Parts:
    steps: dict[str, dict[tuple[str, str], dict[str, Any]]] = {node: {} for node in NODES}
    for name in draw(st.sets(st.sampled_from("klmn"))):
        at = draw(st.integers(0, 3))
        result = draw(st.sampled_from(("", *TOPICS[at + 1 :])))
        step = {
            "workflow": "w", "name": name, "function": draw(st.sampled_from("fg")), "class": "BQ",
            "topic": TOPICS[at], "group": draw(st.sampled_from((f"w/{name}", "g"))), "result": result,
            "error": "", "retries": draw(st.integers(0, 1)),
        }  # fmt: skip
        nodes = draw(st.sets(st.sampled_from(NODES), min_size=1))
        taken = {(each["topic"], each["group"]) for node in NODES for each in steps[node].values()}
        if (step["topic"], step["group"]) not in taken:
            for node in nodes:
                steps[node]["w", name] = step
    version = draw(st.integers(1, 2))
    endpoints = draw(st.dictionaries(st.sampled_from("xy"), st.sampled_from(TOPICS)))
    where = {name: draw(st.sampled_from(NODES)) for name in endpoints}
    used = {each[key] for node in NODES for each in steps[node].values() for key in ("topic", "result")}
    return Parts(
        {topic: {"class": "BQ"} for topic in (used | set(endpoints.values())) - {""}},
        {node: Calls(BROKER, functions(steps[node], version), steps[node]) for node in NODES},
        {
            node: Signals(BROKER, endpoint({k: v for k, v in endpoints.items() if where[k] == node}))
            for node in NODES
        },
    )


def functions(steps: dict[tuple[str, str], dict[str, Any]], version: object) -> dict[str, dict[str, Any]]:
    used = {each["function"] for each in steps.values()}
    return {name: {"name": name, "mode": "python", "version": version} for name in used}


def endpoint(topics: dict[str, str]) -> dict[str, dict[str, Any]]:
    return {name: {"name": name, "kind": "udp", "topic": topic} for name, topic in topics.items()}


def after(parts: Parts, action: Action) -> Parts:
    """What there is once this was done."""
    match action:
        case MakeTopic(name, options):
            assert name not in parts.topics
            return replace(parts, topics={**parts.topics, name: options})
        case ChangeTopic(name, changes):
            assert name in parts.topics
            return replace(parts, topics={**parts.topics, name: {**parts.topics[name], **changes}})
        case RemoveTopic(name):
            return replace(parts, topics={key: each for key, each in parts.topics.items() if key != name})
        case PutCalls(node, before, then):
            assert parts.invokers.get(node, Calls()) == before
            return replace(parts, invokers={**parts.invokers, node: then})
        case PutSignals(node, before_, then_):
            assert parts.triggers.get(node, Signals()) == before_
            return replace(parts, triggers={**parts.triggers, node: then_})


def emitters(parts: Parts) -> dict[tuple[str, ...], set[tuple[str, str]]]:
    """Who publishes: the topics that it goes by, if it is a step, and those that it publishes on."""
    found: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    for signals in parts.triggers.values():
        for name, each in signals.endpoints.items():
            found.setdefault((name,), set()).add(("", each["topic"]))
    for calls in parts.invokers.values():
        for key, each in calls.steps.items():
            if each["result"]:
                found.setdefault(key, set()).add((each["topic"], each["result"]))
    return found


def publishing(now: Parts, before: Parts) -> set[tuple[tuple[str, ...], str]]:
    """Who publishes what by now: to a topic that is only just made nobody does before it is there."""
    ways = {(name, *way) for name, all_ways in emitters(now).items() for way in all_ways}
    flowing = {"", *before.topics}
    while more := {out for _, by, out in ways if by in flowing} - flowing:
        flowing |= more
    return {(name, out) for name, by, out in ways if by in flowing}


def groups(parts: Parts, topic: str) -> set[str]:
    return {
        step["group"]
        for calls in parts.invokers.values()
        for step in calls.steps.values()
        if step["topic"] == topic
    }


def judge(now: Parts, before: Parts, wanted: Parts) -> None:
    """Whoever publishes finds everybody that is there for it, by the platform that it belongs to."""
    old, new = (
        {(name, out) for name, ways in emitters(each).items() for _, out in ways} for each in (before, wanted)
    )
    for emitter in publishing(now, before):
        name, topic = emitter
        assert topic in now.topics, (emitter, "publishes on a topic that is not there")
        there = groups(now, topic)
        if emitter in old and emitter in new:
            assert there >= groups(before, topic) & groups(wanted, topic), (emitter, topic)
        elif emitter in new:
            assert there >= groups(wanted, topic), (emitter, topic)
        else:
            # At its former place it has another name.
            assert ((*name[:-1], name[-1].rstrip("~")), topic) in old
            assert there >= groups(before, topic), (emitter, topic)
    for calls in now.invokers.values():
        places = [(step["topic"], step["group"]) for step in calls.steps.values()]
        assert len(set(places)) == len(places), "two steps at one place"
        assert {step["function"] for step in calls.steps.values()} == calls.functions.keys()


@settings(max_examples=150, deadline=None)
@given(platforms(), platforms())
def test_a_plan_arrives_and_nobody_publishes_into_the_void(before: Parts, wanted: Parts) -> None:
    now = before
    for action in plan(before, wanted):
        now = after(now, action)
        assert action.words()
        judge(now, before, wanted)
    assert now == wanted
    assert plan(wanted, wanted) == []


def parts(*steps: dict[str, Any], endpoints: dict[str, str] | None = None, version: object = 1) -> Parts:
    topics = {topic for step in steps for topic in (step["topic"], step["result"]) if topic}
    named = {(each["workflow"], each["name"]): each for each in steps}
    return Parts(
        {topic: {"class": "SQ"} for topic in topics},
        {"a": Calls(BROKER, functions(named, version), named)},
        {"a": Signals(BROKER, endpoint(endpoints or {}))},
    )


def step(name: str, topic: str, result: str = "") -> dict[str, Any]:
    place = {"class": "SQ", "topic": topic, "group": f"w/{name}"}
    return {"workflow": "w", "name": name, "function": "f", **place, "result": result}


def told(actions: Iterable[Action]) -> list[str]:
    return [line for action in actions for line in action.words()]


def test_a_new_version_of_a_function_is_one_document_for_the_invoker() -> None:
    there = parts(step("s", "t"), endpoints={"x": "t"})
    new = parts(step("s", "t"), endpoints={"x": "t"}, version=2)
    assert told(plan(there, new)) == ["~ invoker a: function f (python)"]


def test_what_goes_goes_from_its_beginning_what_comes_comes_from_its_end() -> None:
    chain = parts(step("one", "t", "u"), step("two", "u"), endpoints={"x": "t"})
    nothing = Parts({}, {"a": Calls(BROKER)}, {"a": Signals(BROKER)})
    assert told(plan(chain, nothing)) == [
        "- trigger a: udp x -> t",
        "- invoker a: step w/one: t (SQ) -> f -> u",
        "- invoker a: function f (python)",
        "- invoker a: step w/two: u (SQ) -> f",
        "- topic t",
        "- topic u",
    ]
    # Somebody may publish on topics that are there already.
    assert [line for line in told(plan(replace(nothing, topics=chain.topics), chain)) if "step" in line] == [
        "+ invoker a: step w/two: u (SQ) -> f",
        "+ invoker a: step w/one: t (SQ) -> f -> u",
    ]
    fresh = [action for action in plan(nothing, chain) if isinstance(action, PutCalls)]
    assert len(fresh) == 1


def test_a_step_that_moves_is_at_both_places_meanwhile() -> None:
    before = parts(step("s", "t"), endpoints={"x": "t"})
    wanted = parts(step("s", "u"), endpoints={"x": "u"})
    assert told(plan(before, wanted)) == [
        "+ topic u: class SQ",
        "~ invoker a: step w/s: u (SQ) -> f",
        "+ invoker a: step w/s~: t (SQ) -> f",
        "~ trigger a: udp x -> u",
        "- invoker a: step w/s~: t (SQ) -> f",
        "- topic t",
    ]
