"""A raw generator: `python -m tempos_bench.peers.raw`, one end of a measurement without a client library.

Prints `ready` once it is connected, then answers commands, one JSON line each; ends with its input.

| --do      | command                                                    | answer                      |
|-----------|------------------------------------------------------------|-----------------------------|
| publish   | {"size", "run", "seconds", "rate", "full", "begin_ns"};    | what was sent               |
|           | rate 0: as fast as can be                                  |                             |
| subscribe | {"size", "run", "idle", "expect", "room"}                  | {"begun": true}; after the  |
|           |                                                            | next line, what came        |
| echo      | the same                                                   | the same                    |
| ping      | {"size", "run", "count"}                                   | {"samples_ns": [...]}       |
"""

from __future__ import annotations

import argparse
import json
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from tempos_bench.compiled import traffic
from tempos_bench.measure import samples
from tempos_bench.peers import framing, stream
from tempos_bench.peers.talk import Talk, Wire
from tempos_bench.programs import commands
from tempos_bench.programs.rehearsal import Asked

WIRES: dict[str, Wire] = {
    "nats": framing.Nats(),
    "mqtt0": framing.Mqtt(0),
    "mqtt1": framing.Mqtt(1),
    "redis": framing.Resp(),
    "zeromq": framing.Zmtp(),
}
#: Tempos' own wire format: its topics are numbers, and a member is where it is bound.
DATAGRAMS = {"tempos": framing.Datagrams(), "tempos-batch": framing.Datagrams(batch=True)}
_TIMEOUT = 2.0
_ENDLESS = 1 << 40


class Connected:
    """One end: the sockets that it publishes to and hears from, and what goes over them."""

    def __init__(self, stack: ExitStack, args: argparse.Namespace) -> None:
        self._wire = WIRES.get(args.wire)
        self._batch = DATAGRAMS.get(args.wire)
        self.topic, self.back = args.topic, args.back
        self.window = self._wire.window if self._wire else 0
        self.gso: bool = args.gso
        self.inward: list[socket.socket] = []
        self.outward: socket.socket | None = None
        to: traffic.Endpoint = args.connect
        if args.do in ("subscribe", "echo", "ping"):
            heard = self.back if args.do == "ping" else self.topic
            if self._wire:
                steps = self._wire.subscriber(heard, args.group)
                hear: traffic.Endpoint = args.hear or to
                self.inward = [stream.converse(hear.ip, hear.port, steps) for _ in range(args.members)]
            else:
                self.inward = [traffic.open_socket(bind=endpoint) for endpoint in args.bind]
        if args.do != "subscribe":
            if self._wire:
                self.outward = stream.converse(to.ip, to.port, self._wire.publisher())
            else:
                self.outward = traffic.open_socket(connect=to)
        for sock in (*self.inward, self.outward):
            if sock is not None:
                stack.enter_context(sock)

    def publishes(self, topic: str, size: int) -> Talk:
        return self._wire.publish(topic, size) if self._wire else self._datagrams(topic, size)

    def hears(self, topic: str, size: int) -> Talk:
        return self._wire.deliver(topic, size) if self._wire else self._datagrams(topic, size)

    def _datagrams(self, topic: str, size: int) -> Talk:
        assert self._batch is not None
        return self._batch.talk(int(topic), size)


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.peers.raw", description=__doc__)
    parser.add_argument("--do", choices=_DO, required=True)
    parser.add_argument("--wire", choices=[*WIRES, *DATAGRAMS], required=True)
    parser.add_argument("--connect", type=traffic.Endpoint.parse, required=True, help="the server")
    parser.add_argument("--hear", type=traffic.Endpoint.parse, help="where to subscribe, if elsewhere")
    parser.add_argument("--bind", type=traffic.Endpoint.parse, action="append", default=[],
                        help="where a tempos member receives")  # fmt: skip
    parser.add_argument("--topic", required=True)
    parser.add_argument("--back", help="the topic of the answers, for ping and echo")
    parser.add_argument("--gso", action="store_true", help="tempos: several datagrams leave as one buffer")
    parser.add_argument("--group")
    parser.add_argument("--members", type=int, default=1)
    args = parser.parse_args()
    with ExitStack() as stack:
        end = Connected(stack, args)
        print("ready", flush=True)
        while line := commands.next_line():
            print(json.dumps(_DO[args.do](end, json.loads(line))), flush=True)


def _publish(end: Connected, command: dict[str, Any]) -> dict[str, Any]:
    assert end.outward is not None
    rate, seconds = command["rate"], command["seconds"]
    sent = stream.send(
        end.outward,
        end.publishes(end.topic, command["size"]),
        command["run"],
        count=round(rate * seconds) if rate else _ENDLESS,
        begin_ns=command["begin_ns"],
        interval=1 / rate if rate else 0.0,
        limit=0.0 if rate else seconds,
        window=end.window,
        full=command["full"],
        gso=end.gso,
    )
    return {"sent": sent.sent, "began_ns": sent.began_ns, "ended_ns": sent.ended_ns, "latest": sent.latest}


def _subscribe(end: Connected, command: dict[str, Any]) -> dict[str, Any]:
    return _receive(end, command, None)


def _echo(end: Connected, command: dict[str, Any]) -> dict[str, Any]:
    assert end.outward is not None
    return _receive(end, command, (end.outward, end.publishes(end.back, command["size"])))


def _receive(
    end: Connected, command: dict[str, Any], echo: tuple[socket.socket, Talk] | None
) -> dict[str, Any]:
    print(json.dumps({"begun": True}), flush=True)
    got = stream.receive(
        end.inward,
        end.hears(end.topic, command["size"]),
        command["run"],
        end_fd=commands.INPUT,
        idle=command["idle"],
        expect=command["expect"],
        room=command["room"],
        echo=echo,
    )
    commands.next_line()
    return {
        "received": got.received,
        "repeated": got.repeated,
        "damaged": got.damaged,
        "stale": got.stale,
        "first_ns": got.first_ns,
        "last_ns": got.last_ns,
        "by_member": got.by_member,
        "latency": samples.pack(got.latency_ns),
    }


def _ping(end: Connected, command: dict[str, Any]) -> dict[str, Any]:
    assert end.outward is not None
    size = command["size"]
    there, here = end.publishes(end.topic, size), end.hears(end.back, size)
    trips = stream.ping(
        end.outward, end.inward[0], there, here, command["run"], count=command["count"], timeout=_TIMEOUT,
        window=end.window,
    )  # fmt: skip
    return {"samples_ns": trips}


_DO: dict[str, Callable[[Connected, dict[str, Any]], dict[str, Any]]] = {
    "publish": _publish,
    "subscribe": _subscribe,
    "echo": _echo,
    "ping": _ping,
}


def planned(asked: Asked) -> dict[str, Any]:
    """What a plan takes for its answer, whichever end it is; also for :mod:`.library`."""
    if asked.message == "end":
        some = samples.pack([1000] * 10)
        counts = {"received": asked.sent, "repeated": 0, "damaged": 0, "by_member": [asked.sent]}
        return {**counts, "first_ns": 0, "last_ns": 10**9, "latency": some}
    if asked.options["--do"] == "ping":
        return {"samples_ns": [1000] * asked.message["count"]}
    if asked.options["--do"] != "publish":
        return {"begun": True}
    return {"sent": 1000, "began_ns": 0, "ended_ns": 10**9, "latest": 0.0}


if __name__ == "__main__":
    main()
