"""What contradicts itself across the tables of a platform: each rule judges only what is sound by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any

from tempos import Quality, names
from tempos.errors import one_line
from tempos_controller.config.drafts import StepDraft, WorkflowDraft, class_of_trigger, home
from tempos_controller.config.layout import ENDPOINT, QUALITY
from tempos_controller.config.model import LOCAL
from tempos_daemon import kinds
from tempos_daemon.schema import Faults, Table, near, read_table, show

#: What a file of the broker's own says, and what only one that the Controller makes has.
_MADE = ("listen", "name", "fastpath", "interfaces")
_OF_FILE = (*_MADE, "address", "data_port", "control_port", "api", "api_token")


def tables(root: Table, key: str) -> tuple[Table, ...]:
    """The tables of a list, sound or not."""
    return root.get(key) or ()


def check(root: Table, workflows: list[WorkflowDraft], faults: Faults) -> None:
    """All rules."""
    for rule in _RULES:
        rule(root, faults)
    for each in _WORKFLOW_RULES:
        each(root, workflows, faults)


# --- places ------------------------------------------------------------------------------------


def _rule_controller(root: Table, faults: Faults) -> None:
    place: Table = root.get("controller")
    host, port = place.get("api") or ("127.0.0.1", 1)
    if not port:
        faults.add(place.at("api"), 'is "off"; allowed: where the commands of tempos reach the Controller')
    if place.get("api_token") and place.get("api_token_file"):
        faults.add(place.at("api_token_file"), f"stands beside {place.at('api_token')}; allowed: one of them")
    if not kinds.is_loopback(host) and place.get("api_expose") is False:
        faults.add(
            place.at("api"),
            f"is {host}:{port}, which others can reach; allowed: a loopback address, or "
            f"{place.at('api_expose')} = true besides",
        )


def _rule_broker(root: Table, faults: Faults) -> None:
    broker: Table = root.get("broker")
    if broker.get("config"):
        _none_beside(broker, _OF_FILE, "config", "what the file itself says", faults)
    elif broker.get("address"):
        _none_beside(broker, _MADE, "address", "of a broker that runs: the options of that one", faults)
    if broker.get("api_token") and broker.get("api_token_file"):
        faults.add(
            broker.at("api_token_file"), f"stands beside {broker.at('api_token')}; allowed: one of them"
        )
    if broker.get("api") and not broker.get("api")[1]:
        faults.add(broker.at("api"), 'is "off"; allowed: where its topics can be made')
    for key, other in (("client", "key"), ("key", "client")):
        if broker.get(key) and other in broker.values and not broker.get(other):
            faults.add(broker.at(other), f"is missing beside {broker.at(key)}; allowed: both or none")


def _none_beside(table: Table, keys: Iterable[str], beside: str, instead: str, faults: Faults) -> None:
    for key in keys:
        if table.get(key) not in (None, ""):
            faults.add(table.at(key), f"stands beside {table.at(beside)}; allowed: {instead}, or one of them")


def _rule_nodes(root: Table, faults: Faults) -> None:
    _each_once(root, "node", faults)
    taken: dict[tuple[str, int], str] = {}
    for place in (root.get("controller"), root.get("broker")):
        if place.get("api"):
            taken.setdefault(place.get("api"), place.at("api"))
    for node in tables(root, "node"):
        if node.get("priority") and node.get("start") is False:
            faults.add(
                node.at("priority"),
                "is for what is started here; allowed: with "
                f"{node.at('start')} = true, or in the files of the daemons that run there",
            )
        for key in ("invoker", "trigger"):
            address = node.get(key)
            if not address or not address[1]:
                continue
            if node.get("start") and not kinds.is_loopback(address[0]):
                faults.add(
                    node.at(key),
                    f"is {address[0]}:{address[1]}, which others can reach, and is to be started here; "
                    f"allowed: a loopback address, or {node.at('start')} = false for one that runs already",
                )
            if taken.setdefault(address, node.at(key)) != node.at(key):
                faults.add(
                    node.at(key),
                    f"is {address[0]}:{address[1]}, as {taken[address]} is; allowed: an address of its own",
                )
            if node.get("start") and node.get(f"{key}_token_file"):
                faults.add(
                    node.at(f"{key}_token_file"),
                    "is of a daemon that is started here, which is given a token; "
                    f"allowed: with {node.at('start')} = false",
                )


# --- references --------------------------------------------------------------------------------


def _each_once(root: Table, kind: str, faults: Faults) -> None:
    first: dict[str, Table] = {}
    for table in tables(root, kind):
        name = table.get("name")
        if name is not None and first.setdefault(name, table) is not table:
            faults.refuse(table.at("name"), name, "each once", f"as {first[name].at('name')} is")


def _rule_names(root: Table, faults: Faults) -> None:
    for kind in ("function", "trigger", "workflow"):
        _each_once(root, kind, faults)


def _rule_functions(root: Table, faults: Faults) -> None:
    for table in tables(root, "function"):
        mode, has_code = table.get("mode"), bool(table.get("code")) or "code" not in table.values
        entry = table.get("entry")
        if mode in ("dlf", "wasm") and not has_code:
            faults.add(table.at("code"), f'is missing; allowed: the code of a function of mode "{mode}"')
        if mode == "python" and "entry" in table.values and (not entry or entry.count(":") != 1):
            shown = "is missing" if entry is None else f"is {show(entry)}"
            faults.add(table.at("entry"), f'{shown}; allowed: "module:function" of Python')
        if mode == "spawn" and not has_code and table.get("args") is None and "args" in table.values:
            faults.add(
                table.at("args"), "is missing; allowed: the program and its arguments, or code besides"
            )


def known_names(root: Table, kind: str) -> set[str]:
    """The sound names of a kind of tables; without any node there is one all the same."""
    found = {each.get("name") for each in tables(root, kind)} - {None}
    return found or ({LOCAL} if kind == "node" and not tables(root, "node") else set())


def _refers(path: str, name: str | None, known: set[str], what: str, faults: Faults) -> None:
    if name is None or name in known:
        return
    listed = ", ".join(sorted(known)[:12]) or "none is there"
    faults.add(path, f"is {show(name)}, which no {what} is called{near(name, known)}; allowed: {listed}")


def _rule_references(root: Table, workflows: list[WorkflowDraft], faults: Faults) -> None:
    nodes, functions = known_names(root, "node"), known_names(root, "function")
    triggers = known_names(root, "trigger")
    for trigger in tables(root, "trigger"):
        _refers(trigger.at("node"), trigger.get("node"), nodes, "[[node]]", faults)
    for workflow in workflows:
        for each in workflow.table.get("trigger") or ():
            _refers(workflow.table.at("trigger"), each, triggers, "[[trigger]]", faults)
        for each in workflow.table.get("node") or ():
            _refers(workflow.table.at("node"), each, nodes, "[[node]]", faults)
        for step in workflow.steps:
            _refers(step.table.at("function"), step.table.get("function"), functions, "[[function]]", faults)
            for each in step.table.get("node") or ():
                _refers(step.table.at("node"), each, nodes, "[[node]]", faults)
    _check_daemons(root, workflows, faults)


def _check_daemons(root: Table, workflows: list[WorkflowDraft], faults: Faults) -> None:
    """What runs on a node needs the daemon there."""
    off = {
        (node.get("name"), key)
        for node in tables(root, "node")
        for key in ("invoker", "trigger")
        if node.get(key) and not node.get(key)[1]
    }
    nodes = list(tables(root, "node"))
    used = {each for draft in workflows for each in draft.table.get("trigger") or ()}
    for trigger in tables(root, "trigger"):
        name = trigger.get("node") or home(nodes, class_of_trigger(trigger.get("name"), workflows))
        if (name, "trigger") in off and trigger.get("name") in used:
            faults.add(
                trigger.path, f'is on node {show(name)}, whose trigger is "off"; allowed: another node'
            )
    for draft in workflows:
        for step in draft.steps:
            for name in step.nodes or (home(nodes, draft.quality),):
                if (name, "invoker") in off:
                    faults.add(
                        step.table.path,
                        f'is on node {show(name)}, whose invoker is "off"; allowed: another node',
                    )


# --- topics ------------------------------------------------------------------------------------


def _rule_steps(root: Table, workflows: list[WorkflowDraft], faults: Faults) -> None:
    for workflow in workflows:
        first: dict[str, StepDraft] = {}
        for index, step in enumerate(workflow.steps):
            if step.name is not None and first.setdefault(step.name, step) is not step:
                faults.refuse(
                    step.table.at("name"), step.name, "each once in a workflow",
                    f"as {first[step.name].table.at('name')} is",
                )  # fmt: skip
            if step.group is not None and len(step.group) > kinds.MAX_NAME:
                faults.refuse(
                    step.table.at("group"), step.group, f"text of at most {kinds.MAX_NAME} characters",
                    "made of the names of workflow and step",
                )  # fmt: skip
            if index and step.topic == "" and step.table.get("topic") is None:
                faults.add(
                    workflow.steps[index - 1].table.at("result"),
                    f"is none, but {step.table.path} goes by it; "
                    f"allowed: a topic, or {step.table.at('topic')} besides",
                )


def _rule_groups(root: Table, workflows: list[WorkflowDraft], faults: Faults) -> None:
    first: dict[tuple[str, str], StepDraft] = {}
    for step in (step for workflow in workflows for step in workflow.steps):
        if step.topic and step.group is not None:
            other = first.setdefault((step.topic, step.group), step)
            if other is not step and (step.workflow.name, step.name) != (other.workflow.name, other.name):
                faults.refuse(
                    step.table.at("group"), step.group, "a group of its own",
                    f"as that of {other.table.path} is on the same topic: each event would reach one of them",
                )  # fmt: skip


def _rule_classes(root: Table, workflows: list[WorkflowDraft], faults: Faults) -> None:
    """A topic has one class, and whatever else workflows say of it they say alike."""
    classes: dict[str, tuple[Quality, str]] = {}
    stated: dict[tuple[str, str], tuple[Any, str]] = {}
    for workflow in workflows:
        if workflow.quality is not None:
            for topic in sorted(workflow.topics):
                before, where = classes.setdefault(topic, (workflow.quality, workflow.table.path))
                if before is not workflow.quality:
                    faults.add(
                        workflow.table.at("class"),
                        f"is {show(workflow.quality.value)}, but topic {show(topic)} is "
                        f"{show(before.value)} by {where}; allowed: one class for a topic",
                    )
        if not workflow.topic:
            continue
        for key in QUALITY.keys() - {"class"}:
            value = workflow.table.get(key)
            if value is None:
                continue
            path = workflow.table.at(key)
            if names.is_filter(workflow.topic):
                faults.add(path, "is of a filter, which makes no topic; allowed: beside the name of one")
            before, where = stated.setdefault((workflow.topic, key), (value, path))
            if before != value:
                faults.refuse(
                    path, _shown(value), f"the same for topic {show(workflow.topic)}",
                    f"but {_shown(before)!r} by {where}",
                )  # fmt: skip


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else getattr(value, "value", value)


def _rule_triggers(root: Table, workflows: list[WorkflowDraft], faults: Faults) -> None:
    """An endpoint publishes on one topic, and where two answer by HTTP they have different paths."""
    first: dict[str, tuple[str, str]] = {}
    for workflow in workflows:
        for name in workflow.table.get("trigger") or ():
            path = workflow.table.at("trigger")
            if not workflow.topic:
                continue
            if names.is_filter(workflow.topic) and not _fills(root, name, workflow.topic):
                told = "beside the name of a topic, or http with a value in its path, {...}, for each +"
                faults.add(path, f"publishes on {show(workflow.topic)}; allowed: {told}")
            topic, where = first.setdefault(name, (workflow.topic, path))
            if topic != workflow.topic:
                faults.refuse(
                    path, name, "a trigger of its own for each topic", f"as {where} is, for {show(topic)}"
                )
    places: dict[tuple[str, ...], Table] = {}
    for trigger in tables(root, "trigger"):
        for place in _places_of(trigger):
            if places.setdefault(place, trigger) is not trigger:
                faults.add(
                    trigger.path,
                    f"listens where {places[place].path} does ({' '.join(place[2:])}); "
                    "allowed: another path or port",
                )
                break


def _fills(root: Table, name: str, topic: str) -> bool:
    """Whether the trigger's path has a value for each ``+`` of a topic."""
    paths = [
        str((trigger.values.get("options") or {}).get("path", ""))
        for trigger in tables(root, "trigger")
        if trigger.get("name") == name and trigger.get("kind") == "http"
    ]
    return "#" not in topic and any(path.count("{") == topic.split("/").count("+") for path in paths)


def _places_of(trigger: Table) -> list[tuple[str, ...]]:
    """What two endpoints of a node cannot share, as far as it can be told without knowing the kind."""
    options: Mapping[str, Any] = trigger.values.get("options") or {}
    node, kind = trigger.get("node") or "", trigger.get("kind")
    listen = options.get("listen", "127.0.0.1:8080" if kind == "http" else None)
    if kind is None or not isinstance(listen, str):
        return []
    if kind != "http":
        return [(node, kind, listen)]
    methods = options.get("methods", ["POST"])
    path = f"{listen}{options.get('path', '')}"
    return [(node, kind, str(each), path) for each in (methods if isinstance(methods, list) else [])]


def _rule_kinds(root: Table, workflows: list[WorkflowDraft], faults: Faults) -> None:
    """What a kind that is installed says of its endpoints, where a trigger of this machine serves them."""
    known = {point.name: point for point in metadata.entry_points(group="tempos.triggers")}
    here = {node.get("name"): bool(node.get("start")) for node in tables(root, "node")} or {LOCAL: True}
    for trigger in tables(root, "trigger"):
        word, node = trigger.get("kind"), trigger.get("node") or next(iter(here))
        if not known or word is None or not here.get(node):
            continue
        if word not in known:
            why = near(word, known).strip(" ()")
            faults.refuse(trigger.at("kind"), word, ", ".join(sorted(known)), why)
            continue
        try:
            kind = known[word].load()()
        except ModuleNotFoundError as error:
            extra = f"pip install 'tempos[trigger-{word}]'"
            faults.add(
                trigger.at("kind"), f"is {show(word)}, which needs {error.name}, not installed: {extra}"
            )
            continue
        except Exception as error:  # noqa: BLE001 - foreign code; whatever it is, it has to be told
            faults.add(trigger.at("kind"), f"is {show(word)}, which cannot be loaded: {one_line(error)}")
            continue
        options = trigger.values["options"]
        before = len(faults.problems)
        table = read_table(dict(options), trigger.path, {**ENDPOINT, **kind.keys}, faults)
        if len(faults.problems) == before:
            kind.check(table, faults)


def _rule_circles(root: Table, workflows: list[WorkflowDraft], faults: Faults) -> None:
    """What a step makes of an event must not come back to it."""
    steps = [step for workflow in workflows for step in workflow.steps if step.topic]
    after: dict[int, list[int]] = {}
    for index, step in enumerate(steps):
        outs = [topic for topic in (step.result, step.error) if topic]
        after[index] = [
            other
            for other, each in enumerate(steps)
            if each.topic and any(names.matches(each.topic, o) for o in outs)
        ]
    if found := _circle(after):
        way = [steps[index] for index in found]
        faults.add(
            way[0].table.path,
            "leads back to itself: "
            + " -> ".join(f"{each.topic} ({each.workflow.name}/{each.name})" for each in (*way, way[0]))
            + "; allowed: results and errors that end somewhere",
        )


def _circle(after: Mapping[int, list[int]]) -> list[int]:
    """Nodes that lead back to the first of them, or none."""
    done: set[int] = set()
    for start in after:
        way: list[int] = []
        rest = [iter((start,))]
        while rest:
            node = next(rest[-1], None)
            if node is None:
                rest.pop()
                if way:
                    done.add(way.pop())
            elif node in way:
                return way[way.index(node) :]
            elif node not in done:
                way.append(node)
                rest.append(iter(after[node]))
    return []


_RULES: tuple[Callable[[Table, Faults], None], ...] = (
    _rule_controller,
    _rule_broker,
    _rule_nodes,
    _rule_names,
    _rule_functions,
)
_WORKFLOW_RULES: tuple[Callable[[Table, list[WorkflowDraft], Faults], None], ...] = (
    _rule_references,
    _rule_steps,
    _rule_groups,
    _rule_classes,
    _rule_triggers,
    _rule_kinds,
    _rule_circles,
)
