"""Where one broker follows another of its name, with members that live through it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.nodes import udp
from support.silence import silenced
from support.waiting import LIMIT
from tempos import Subscriber
from tempos._places import SYSTEM
from tempos.wire import encode_event, encode_raw
from tempos_bench.nodes.loop import NodeLoop
from tempos_bench.nodes.node import PYTHON, Program
from tempos_bench.nodes.topology import Topology
from tempos_bpf.links import query_xdp
from tempos_fastpath.survival.orphans import installed, remove
from tempos_fastpath.survival.ownership import ROOT, Identity, current_namespace
from tempos_fastpath.survival.pins import Pins

NAME = f"life-{os.getpid()}"
OTHER = f"{NAME}-b"
#: A narrow topic, and a wide one.
EVENTS, PLAIN = 1, 300
RUN = "import sys; from tempos_broker.__main__ import main; sys.exit(main())"
WITHOUT_LIBBPF = f"import sys; sys.modules['tempos_bpf.library'] = None; {RUN}"
CLEAN = (PYTHON, "-m", "tempos", "fastpath", "clean")
Topics = Mapping[int, Mapping[str, object]]
TOPICS: Topics = {EVENTS: {"name": "events"}, PLAIN: {"name": "plain", "framing": "raw"}}


class Life:
    """Where one broker follows another, and who lives through it."""

    def __init__(self, topology: Topology, folder: Path) -> None:
        self.topology = topology
        self.folder, self.file = folder, folder / "broker.toml"
        self.sent: dict[int, int] = {}
        self.source = udp(topology.publisher)
        #: What runs a broker's code.
        self.python: tuple[str, ...] = (PYTHON, "-c")
        self._program: Program | None = None

    def start(
        self, topics: Topics = TOPICS, fast: Mapping[str, object] | None = None, **broker: object
    ) -> None:
        table = {"name": NAME, "listen": list(self.topology.broker.addresses), **broker}
        state = table.pop("state", str(self.folder / "state.db"))
        libbpf, before = table.pop("libbpf", True), table.pop("before", "")
        command = (*self.python, f"{before}\n{RUN if libbpf else WITHOUT_LIBBPF}")
        if command == (PYTHON, "-c", f"\n{RUN}"):
            command = (PYTHON, "-m", "tempos_broker")
        quality, limits = table.pop("quality", {}), table.pop("limits", {})
        lease = table.pop("lease", 10.0)
        lines = ["[broker]", *_values(table), "[state]", f"file = {json.dumps(state)}"]
        lines += ["[quality]", *_values(quality)]  # type: ignore[arg-type]
        lines += ["[limits]", *_values(limits)]  # type: ignore[arg-type]
        lines += ["[control]", "heartbeat = 0.5", f"lease = {lease}", "[fastpath]", *_values(fast or {})]
        for id_, topic in topics.items():
            lines += [
                "[[topic]]",
                f"id = {id_}",
                *_values({k: v for k, v in topic.items() if k != "members"}),
            ]
            for member in topic.get("members", ()):  # type: ignore[attr-defined]
                lines += ["[[topic.member]]", *_values(member)]
        self.file.write_text("\n".join(lines))
        self._program = self.topology.broker.start(
            (*command, "-c", str(self.file)),
            ready="ready",
            limit=LIMIT,
            # What these two leave is taken out at the end, without a program for it.
            clean_up=() if table["name"] in (NAME, OTHER) else (*CLEAN, str(table["name"])),
        )

    def __enter__(self) -> Life:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing, whatever the test came to: a broker that is told to stop leaves its fast path."""
        if self._program is not None and self._program.running:
            self._program.kill()
        for each in installed():
            if each.identity.name in (NAME, OTHER):
                remove(each)
        for name in (NAME, OTHER):
            with contextlib.suppress(OSError):
                (ROOT / name).rmdir()
            for path in (SYSTEM / name).glob("*"):
                path.unlink()
            with contextlib.suppress(OSError):
                (SYSTEM / name).rmdir()
        self.source.close()

    @property
    def process(self) -> Program:
        """The latest one."""
        assert self._program is not None
        return self._program

    def kill(self) -> None:
        self.process.kill()

    def end(self, how: signal.Signals) -> None:
        """Tell it to stop; it does, in order."""
        self.process.send(how)
        assert self.process.wait(LIMIT) == 0, self.said

    @property
    def said(self) -> str:
        return self.process.output

    def ask(self, path: str) -> Any:
        return self.topology.broker.request("GET", path)

    def topic(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"/v1/ledger/{name}")
        return found

    def journal(self, name: str) -> list[dict[str, Any]]:
        """All that the topic's journal has."""
        events: list[dict[str, Any]] = []
        more, after = True, 0
        while more:
            page = self.ask(f"/v1/topics/{name}/journal?after={after}")
            events += page["events"]
            more, after = page["more"], page["next"]
        return events

    def send(self, topic: int, count: int = 50) -> None:
        """Events one after the other; none is lost on links that are otherwise quiet."""
        before = self.sent.get(topic, 0)
        for number in range(before, before + count):
            plain = topic == PLAIN
            data = encode_raw(topic, b"%d" % number) if plain else encode_event(topic, 9, number, 0, b"body")
            self.source.sendto(data, (self.topology.broker.address, 9998))
        self.sent[topic] = before + count

    def carried(self) -> list[str]:
        """The interfaces of the broker that carry an XDP program."""
        indices = {name: self.topology.broker.call(lambda name=name: socket.if_nametoindex(name))  # type: ignore[misc]
                   for name in self.topology.broker.interfaces}  # fmt: skip
        return [name for name, index in indices.items()
                if self.topology.broker.call(lambda index=index: query_xdp(index))]  # type: ignore[misc]  # fmt: skip

    @property
    def pins(self) -> Pins:
        return Pins(Identity(NAME, self.topology.broker.call(current_namespace)))


def _values(table: Mapping[str, object]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in table.items()]


class Members:
    """Subscribers in their node, all of whom are gone at the end."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._loop = NodeLoop(life.topology.subscriber)
        self._joined: list[Subscriber] = []

    def join(self, topic: str, group: str | None, **options: Any) -> Subscriber:
        async def begin() -> None:
            await subscriber.__aenter__()

        subscriber = Subscriber(self._life.topology.broker.address, topic, group=group, **options)
        self._loop.do(begin())
        self._joined.append(subscriber)
        return subscriber

    def kill(self, subscriber: Subscriber) -> None:
        """As the end of its process: it tells nobody anything, and nothing comes."""
        self._loop.do(silenced(subscriber))
        self._joined.remove(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        self._loop.do(subscriber.__aexit__(None, None, None))

    def __enter__(self) -> Members:
        return self

    def __exit__(self, *_: object) -> None:
        with self._loop:
            for each in self._joined:
                self.leave(each)


def present(life: Life, topic: str) -> set[str]:
    """The groups of a topic that have a member."""
    groups = life.topic(topic)["groups"]
    return {each["name"] for each in groups if not all(member["left"] for member in each["members"])}
