"""Records the latency of events: `python -m tempos_bench.programs.gather`.

Prints `ready`, then answers commands. {"do": "begin", "wanted": [...], "size": ..., "idle": ...} and what
else :func:`~tempos_bench.compiled.latency.gather` takes begins to record, and is answered {"begun": true}
at once. Whatever line comes next ends it, once nothing has come for `idle` seconds; the answer then has
the traces, with their samples packed. {"do": "thin", "port": ..., "topic": ..., "keep_one_in": ...} lets
the kernel drop the others of a topic. Ends with its input.
"""

from __future__ import annotations

import argparse
import json
import socket
from contextlib import ExitStack
from typing import Any

from tempos_bench.compiled import latency, traffic
from tempos_bench.measure import samples
from tempos_bench.programs import commands
from tempos_bench.programs.rehearsal import Asked

_COLUMNS = ("transit", "late", "taken", "arrived")


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.gather", description=__doc__)
    parser.add_argument("--bind", type=traffic.Endpoint.parse, action="append", required=True)
    parser.add_argument(
        "--buffer", type=int, default=0, help="receive buffer, bytes; 0: the largest there is"
    )
    parser.add_argument(
        "--discard",
        type=traffic.Endpoint.parse,
        action="append",
        default=[],
        help="here the kernel drops all",
    )
    parser.add_argument("--fifo", type=int, default=0, help="SCHED_FIFO priority; 0: ordinary scheduling")
    args = parser.parse_args()
    lacking = latency.real_time(args.fifo)
    with ExitStack() as stack:
        socks = [stack.enter_context(traffic.open_socket(bind=endpoint)) for endpoint in args.bind]
        if args.buffer:
            for sock in socks:
                # The kernel doubles what it is asked for.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, args.buffer // 2)
        for endpoint in args.discard:
            traffic.discard(stack.enter_context(traffic.open_socket(bind=endpoint)))
        print("ready", lacking or "", flush=True)
        while line := commands.next_line():
            command = json.loads(line)
            answer = {"begin": _begin, "thin": _thin}[command.pop("do")](socks, command)
            print(json.dumps(answer), flush=True)


def _begin(socks: list[socket.socket], command: dict[str, Any]) -> dict[str, Any]:
    wanted = [latency.Wanted(**each) for each in command.pop("wanted")]
    before = [traffic.dropped(sock) for sock in socks]
    print(json.dumps({"begun": True}), flush=True)
    gathered = latency.gather(socks, wanted, end_fd=commands.INPUT, **command)
    commands.next_line()
    return {
        "foreign": gathered.foreign,
        "unstamped": gathered.unstamped,
        "dropped": {
            str(sock.getsockname()[1]): traffic.dropped(sock) - count
            for sock, count in zip(socks, before, strict=True)
        },
        "traces": [_record(trace) for trace in gathered.traces],
    }


def _record(trace: latency.Trace) -> dict[str, Any]:
    plain = ("topic", "received", "repeated", "reordered", "ahead", "first_ns", "last_ns")
    record: dict[str, Any] = {name: getattr(trace, name) for name in plain}
    return record | {name: samples.pack(getattr(trace, name)) for name in _COLUMNS}


def _thin(socks: list[socket.socket], command: dict[str, Any]) -> dict[str, Any]:
    port = command.pop("port")
    for sock in socks:
        if sock.getsockname()[1] == port:
            latency.thin(sock, **command)
    return {"thinned": port}


def planned(asked: Asked) -> dict[str, Any]:
    """What a plan takes for its answer."""
    if asked.message != "end":
        return {"begun": True}
    # Doubling times, so that some of them are in the middle of a play however long it is.
    arrived = [1000 << step for step in range(21)]
    samples_of = {name: samples.pack([1000] * len(arrived)) for name in _COLUMNS}
    plain = {"received": len(arrived), "repeated": 0, "reordered": 0}
    wanted = asked.latest("begin")["wanted"]
    traces = [
        {"topic": each["topic"], **plain, **samples_of, "arrived": samples.pack(arrived)} for each in wanted
    ]
    ports = (option.rpartition(":")[2] for option in asked.values("--bind"))
    return {"dropped": dict.fromkeys(ports, 0), "traces": traces}


if __name__ == "__main__":
    main()
