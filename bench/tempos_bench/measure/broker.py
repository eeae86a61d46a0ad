"""A broker in a node: written a configuration for, started, asked for its status, stopped.

It is started as a process, as anyone would; the configuration reaches it through an anonymous file in
memory, so nothing is left on disk whatever happens.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from tempos import API_PORT, DATA_PORT, Group, Path, TemposError, Topic
from tempos_bench.nodes.node import PYTHON, TEXT_FILE, Node, Program, ProgramFailed
from tempos_bench.nodes.patience import patience
from tempos_bench.runs.run import current

#: Seconds between two looks at a status that is to change.
_LOOK_EVERY = 0.02
#: Members that a group may have where the configuration says nothing.
_MEMBERS = 64
#: The same of topics that a broker holds, and how many more than it begins with it is to have room for.
_TOPICS, _SPARE = 1024, 24
_COMMAND = (PYTHON, "-m", "tempos_broker", "-c", TEXT_FILE)
#: What the same command does, as a line of Python.
_THEN = "import runpy; runpy.run_module('tempos_broker', run_name='__main__', alter_sys=True)"
#: Of every broker that this process starts, so that what is pinned under it is nobody else's.
_NAME = f"bench-{os.getpid()}"
_CLEAN = (PYTHON, "-m", "tempos", "fastpath", "clean", _NAME)


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """The account of one group: tickets drawn, and where the events behind them went.

    ``dropped`` reached a member that did not give it to its program, ``unconfirmed`` will still be reported,
    ``lost`` never, ``unknown`` went to members that report nothing.
    """

    name: str
    tickets: int
    delivered: int
    dropped: int
    unconfirmed: int
    lost: int
    unknown: int


@dataclass(frozen=True, slots=True)
class LostBefore:
    """Of what publishers sent, so many events drew no ticket; ``settled``: to the last word of each.

    ``at_most`` None: nobody can tell.
    """

    sent: int
    at_least: int
    at_most: int | None
    settled: bool


@dataclass(frozen=True, slots=True)
class TopicStatus:
    """What the broker's status says of one topic. The unit is the datagram.

    ``passed``: what the fast path handed up to the slow one, by reason.
    ``problems`` says what of the ledger does not add up, in the broker's words.
    """

    name: str
    path: str
    reason: str
    received: int
    fast: int
    slow: int
    refused: Mapping[str, int]
    passed: Mapping[str, int]
    groups: tuple[GroupStatus, ...]
    problems: tuple[str, ...]
    before: LostBefore
    #: Replies to requests that were sent on; they are no events, and not among those received.
    replies: int = 0

    @property
    def closed(self) -> bool:
        """Whether the ledger's identities hold: every event is accounted for, in the topic and each group."""
        return (
            not self.problems
            and self.received == self.fast + self.slow + sum(self.refused.values())
            and all(
                g.tickets == g.delivered + g.dropped + g.unconfirmed + g.lost + g.unknown for g in self.groups
            )
        )


class Broker:
    """A running broker.

    ``topics`` with their static groups; ``mode`` as in `fastpath.mode`, ``state`` as in `state.file`,
    ``quality``, ``limits`` and ``control`` the keys of these sections that differ from their defaults;
    ``latency`` as in `fastpath.latency`.
    ``listen``: the node's addresses if nothing is said; ``portable`` as the option of `tempos broker`.
    ``first``: Python that runs in its process before it does. ``file``: where its configuration is written
    to, for :meth:`reload`; else it is in memory only.
    ``all_interfaces``: the fast path is on those that the broker finds by itself, not on the node's.

    Raises :class:`ProgramFailed` with the broker's own words if it does not get ready.
    """

    def __init__(
        self,
        node: Node,
        topics: Mapping[Topic, Sequence[Group]],
        *,
        mode: str = "auto",
        state: str = "off",
        quality: Mapping[str, object] | None = None,
        latency: bool = False,
        limits: Mapping[str, int] | None = None,
        control: Mapping[str, float] | None = None,
        listen: Sequence[str] = (),
        portable: bool = False,
        all_interfaces: bool = False,
        cpu: int | None = None,
        limit: float = 60.0,
        first: str = "",
        file: FilePath | None = None,
    ) -> None:
        self.node, self._file = node, file
        interfaces = () if all_interfaces else node.interfaces
        self._text: Callable[[Mapping[Topic, Sequence[Group]]], str] = lambda topics: config_text(
            listen or node.addresses, topics, mode, interfaces, state, quality, latency, limits, control
        )
        text = self._text(topics)
        command: tuple[str, ...] = (PYTHON, "-c", f"{first}; {_THEN}", *_COMMAND[3:]) if first else _COMMAND
        if portable:
            command = (*command, "--portable")
        if file is not None:
            file.write_text(text)
            command = tuple(part.replace(TEXT_FILE, str(file)) for part in command)
        self.program: Program = node.start(
            command,
            ready="ready",
            limit=limit,
            cpu=cpu,
            text=None if file is not None else text,
            clean_up=_CLEAN if mode != "off" else (),
        )

    @property
    def pid(self) -> int:
        return self.program.pid

    def status(self) -> dict[str, Any]:
        """The whole status document, from the HTTP API inside the node."""
        answer: dict[str, Any] = self.ask("GET", "/v1/status")
        return answer

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """One request to the control API, inside the node; raises :class:`TemposError` for a refusal."""
        return self.node.request(method, path, body)

    def reload(self, topics: Mapping[Topic, Sequence[Group]]) -> list[str]:
        """Write these topics into its file and have it read that again; what it says has changed."""
        assert self._file is not None, "its configuration is in memory, and stays as it is"
        self._file.write_text(self._text(topics))
        changes: list[str] = self.ask("POST", "/v1/reload")["changes"]
        return changes

    def topic(self, name: str) -> TopicStatus:
        """The status of one topic."""
        return topic_status(self.entry(name))

    def entry(self, name: str) -> dict[str, Any]:
        """All that the status document says of one topic."""
        for entry in self.status()["topics"]:
            if entry["name"] == name:
                found: dict[str, Any] = entry
                return found
        raise TemposError(f"the broker knows no topic {name!r}")

    def wait_path(self, name: str, path: Path, limit: float = 30.0) -> TopicStatus:
        """Wait until the topic is served by ``path``; raises :class:`ProgramFailed` saying why not."""
        status = self._wait(name, lambda status: status.path == path.value, limit)
        if status.path != path.value:
            raise ProgramFailed(
                f"topic {name!r} is on the {status.path} path after {limit:g} s, not on the "
                f"{path.value} one: {status.reason}"
            )
        fast = self.status()["paths"]["fast"]
        current().saw_path({"path": path.value, "mode": fast["mode"], "reason": fast["reason"]})
        return status

    def wait_worker(self, limit: float = 30.0) -> str:
        """Wait until the process for SQ serves; what it got, or :class:`ProgramFailed` with why not."""
        end = time.monotonic() + patience(limit)
        while (worker := self.status()["quality"]["worker"])["state"] != "serving":
            if time.monotonic() > end:
                raise ProgramFailed(
                    f"the SQ worker is {worker['state']} after {limit:g} s, not serving: {worker['reason']}"
                )
            time.sleep(_LOOK_EVERY)
        return str(worker["reason"])

    def wait_received(self, name: str, count: int, limit: float = 30.0) -> TopicStatus:
        """Wait until the topic has received ``count`` datagrams, or ``limit`` seconds; the status then."""
        return self._wait(name, lambda status: status.received >= count, limit)

    def wait_delivered(self, name: str, count: int, limit: float = 30.0) -> TopicStatus:
        """Wait until the members have told of ``count`` datagrams, or ``limit`` seconds; the status then."""
        return self._wait(name, lambda status: sum(g.delivered for g in status.groups) >= count, limit)

    def _wait(self, name: str, done: Callable[[TopicStatus], bool], limit: float) -> TopicStatus:
        end = time.monotonic() + patience(limit)
        while not done(status := self.topic(name)) and time.monotonic() < end:
            time.sleep(_LOOK_EVERY)
        return status

    def stop(self) -> None:
        """End it as an operator would; raises :class:`ProgramFailed` if it does not end cleanly."""
        code = self.program.stop()
        if code:
            raise ProgramFailed(f"the broker ended with exit code {code}\n{self.program.output}")

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.program.stop()


def config_text(
    listen: Sequence[str],
    topics: Mapping[Topic, Sequence[Group]],
    mode: str,
    interfaces: Sequence[str],
    state: str = "off",
    quality: Mapping[str, object] | None = None,
    latency: bool = False,
    limits: Mapping[str, int] | None = None,
    control: Mapping[str, float] | None = None,
) -> str:
    """A broker configuration. JSON's strings, numbers, booleans and lists are TOML's as well."""
    lines = [
        "[broker]",
        f"name = {json.dumps(_NAME)}",
        f"listen = {json.dumps(list(listen))}",
        f"data_port = {DATA_PORT}",
        f'api = "127.0.0.1:{API_PORT}"',
        "[state]",
        f"file = {json.dumps(state)}",
        "[fastpath]",
        f"mode = {json.dumps(mode)}",
        f"interfaces = {json.dumps(list(interfaces))}",
        f"latency = {json.dumps(latency)}",
        # Nobody comes after it.
        'on_stop = "withdraw"',
    ]
    if quality:
        lines += ["[quality]", *(f"{key} = {json.dumps(value)}" for key, value in quality.items())]
    largest = max((len(group.members) for groups in topics.values() for group in groups), default=0)
    needed = {
        **({"members_per_group": largest} if largest > _MEMBERS else {}),
        **({"topics": len(topics) + _SPARE} if len(topics) + _SPARE > _TOPICS else {}),
    }
    limits = {**needed, **(limits or {})}
    if limits:
        lines += ["[limits]", *(f"{key} = {value}" for key, value in limits.items())]
    if control:
        lines += ["[control]", *(f"{key} = {value}" for key, value in control.items())]
    for topic, groups in topics.items():
        lines += [
            "[[topic]]",
            f"id = {topic.id}",
            f"name = {json.dumps(topic.name)}",
            f"class = {json.dumps(topic.quality.value)}",
            f"priority = {topic.priority}",
            f"framing = {json.dumps(topic.framing.value)}",
            *([f"ports = {list(topic.ports)}", f'pick = "{topic.pick.value}"'] if topic.ports else []),
            f"path = {json.dumps(topic.policy.value)}",
            f"sources = {json.dumps(list(topic.sources))}",
            f"rate = {topic.rate}",
            f"burst = {topic.burst}",
            f"overflow = {json.dumps(topic.overflow.value)}",
            f"fanout = {json.dumps(topic.fanout.value)}",
            f"unheard = {json.dumps(topic.unheard.value)}",
            f"journal = {topic.journal}",
            f"journal_bytes = {topic.journal_bytes}",
            *(["redeliver = true"] if topic.redeliver else []),
        ]
        for options in topic.groups:
            lines += ["[[topic.group]]", f"name = {json.dumps(options.name)}", f"every = {options.every}"]
            lines += [f"sources = {json.dumps(list(options.sources))}"]
            lines += ['source = "keep"'] if options.keep else []
            lines += [f"down_after = {options.down_after}"]
            lines += [f"probe = {json.dumps(options.probe)}", f"probe_port = {options.probe_port}"]
        for group in groups:
            for member in group.members:
                lines += ["[[topic.member]]", f"ip = {json.dumps(member.ip)}", f"port = {member.port}"]
                lines += [f"group = {json.dumps(group.name)}"]
                lines += [f"mac = {json.dumps(member.mac)}"] if member.mac else []
                lines += [f"source = {json.dumps(member.source)}"] if member.source else []
                lines += [f"weight = {member.weight}"] if member.weight > 1 else []
    return "\n".join(lines) + "\n"


def topic_status(entry: Mapping[str, Any]) -> TopicStatus:
    """What the status document says of a topic, as a value."""
    groups = tuple(
        GroupStatus(**{field: group[field] for field in GroupStatus.__slots__}) for group in entry["groups"]
    )
    plain = ("name", "path", "reason", "received", "fast", "slow", "refused", "passed")
    return TopicStatus(
        **{field: entry[field] for field in plain},
        groups=groups,
        replies=entry.get("replies", 0),
        problems=tuple(entry["problems"]),
        before=LostBefore(**{field: entry["lost_before"][field] for field in LostBefore.__slots__}),
    )
