"""A fast path in a process of its own, so that a test can kill it: JSON lines in, JSON lines out.

The argument is what :func:`tempos_fastpath.starting.start` takes, as JSON, with `unknown` in place of a
kernel: the questions of :class:`tempos_fastpath.network.kernel.Kernel` that it shall not answer. It prints
`ready`, or `refused` and why; then it answers one command after another until its input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

# It is a program of its own, too.
sys.path.insert(0, str(File(__file__).resolve().parents[1]))

from support.waiting import LIMIT
from tempos import Fanout, Framing, Group, Member, Path, Route, Topic, Unavailable
from tempos_bench.nodes.node import PYTHON, Node, Program
from tempos_fastpath.network.kernel import Kernel
from tempos_fastpath.offload import Offload
from tempos_fastpath.starting import start


def launch(node: Node, *, listen: Sequence[str] = ("0.0.0.0",), interfaces: Sequence[str] = (),
           mode: str = "auto", **more: object) -> Program:  # fmt: skip
    """Start one in a node; the next line it prints is `ready` or `refused`."""
    options = {"listen": listen, "port": 9998, "mode": mode, "interfaces": interfaces, **more}
    return node.start([PYTHON, __file__, json.dumps(options)], talk=True)


def make_route(
    topic: int,
    epoch: int,
    groups: Sequence[Sequence[tuple[str, int]]],
    sources: Sequence[str] = (),
    fanout: str = "auto",
    rate: int = 0,
    burst: int = 0,
) -> Route:
    """An event topic with these groups of members."""
    found = Topic(topic, "killed", framing=Framing.EVENT, sources=tuple(sources), rate=rate, burst=burst,
                  fanout=Fanout(fanout))  # fmt: skip
    return Route(
        found,
        epoch,
        tuple(
            Group(f"g{number}", tuple(Member(ip, port) for ip, port in members))
            for number, members in enumerate(groups)
        ),
    )


class Offloader:
    """The commands; each answers with something that JSON can say."""

    def __init__(self, offload: Offload) -> None:
        self._offload = offload
        self._changed = asyncio.Event()
        offload.on_change(self._changed.set)

    async def install(self, topic: int, epoch: int, members: Sequence[tuple[str, int]] = (),
                      sources: Sequence[str] = (), groups: Sequence[Sequence[tuple[str, int]]] = (),
                      fanout: str = "auto", rate: int = 0, burst: int = 0) -> str:  # fmt: skip
        """Until the fast path carries it; it is the only topic then. ``members`` make one group."""
        route = make_route(topic, epoch, groups or [members], sources, fanout, rate, burst)
        await self._offload.configure([route.topic])
        while True:
            self._changed.clear()
            choice = await self._offload.install(route)
            if choice.path is Path.FAST:
                return choice.reason
            await asyncio.wait_for(self._changed.wait(), LIMIT)

    async def choose(self, topic: int, epoch: int, groups: Sequence[Sequence[tuple[str, int]]],
                     fanout: str = "auto") -> tuple[str, str]:  # fmt: skip
        """The path that it takes now, whichever it is, and the reason."""
        route = make_route(topic, epoch, groups, fanout=fanout)
        await self._offload.configure([route.topic])
        choice = await self._offload.install(route)
        return choice.path.value, choice.reason

    async def withdraw(self, topic: int) -> None:
        await self._offload.withdraw(topic)

    async def measure_anew(self, topic: int) -> None:
        self._offload.measure_anew([topic])

    async def adopted(self) -> dict[int, int]:
        return dict(self._offload.adopted())

    async def state(self, topic: int, epoch: int) -> dict[str, Any]:
        counters = self._offload.counters().get(topic, {})
        latency = self._offload.latency([topic]).get(topic)
        return {
            "measured": [latency.program.count, latency.since_sent.count] if latency else None,
            "tickets": self._offload.tickets.read(topic, epoch, 0),
            "counters": {reason.label: count for reason, count in counters.items()},
            "mode": self._offload.status().mode,
            "reason": self._offload.status().reason,
        }

    async def close(self, keep: bool) -> None:
        await self._offload.close(keep=keep)


def _unknown() -> None:
    """An older kernel's answer."""


async def main() -> None:
    """Serve commands until the input ends."""
    loop = asyncio.get_running_loop()
    try:
        options = json.loads(sys.argv[1])
        options["kernel"] = Kernel(**dict.fromkeys(options.pop("unknown", ()), _unknown))
        offload = await start(**options)
    except Unavailable as error:
        print("refused", error, flush=True)
        return
    offloader = Offloader(offload)
    print("ready", offload.status().reason, flush=True)
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command = json.loads(line)
            print(json.dumps(await getattr(offloader, command.pop("do"))(**command)), flush=True)
    finally:
        await offload.close()


if __name__ == "__main__":
    asyncio.run(main())
