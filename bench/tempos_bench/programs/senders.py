"""Senders with a socket each, that take turns: `python -m tempos_bench.programs.senders`. Prints `ready`.

Then answers commands, JSON lines {"to": "IP:PORT", "count": ..., "size": ..., "rate": ..., "limit": ...,
"byte": ..., "first": ...} (rate 0: without a pause; `byte`: the first one of each datagram, `first`: the
number behind it of the first one), each with what was sent and the processor time it took. Ends with its
input.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from typing import Any

from tempos import Framing
from tempos_bench.compiled import latency, traffic
from tempos_bench.programs.rehearsal import Asked


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.senders", description=__doc__)
    parser.add_argument("--bind", required=True, metavar="IP")
    parser.add_argument("--senders", type=int, required=True)
    parser.add_argument("--fifo", type=int, default=0, help="SCHED_FIFO priority; 0: ordinary scheduling")
    args = parser.parse_args()
    lacking = latency.real_time(args.fifo)
    with ExitStack() as stack:
        bind = traffic.Endpoint(args.bind, 0)
        socks = [stack.enter_context(traffic.open_socket(bind=bind)) for _ in range(args.senders)]
        print("ready", lacking or "", flush=True)
        for line in sys.stdin:
            command = json.loads(line)
            to = traffic.Endpoint.parse(command["to"])
            for sock in socks:
                sock.connect((to.ip, to.port))
            datagrams = traffic.Datagrams(
                topic=command["byte"],
                count=command["count"],
                size=command["size"],
                framing=Framing.RAW,
                interval=1 / command["rate"] if command["rate"] else 0,
                limit=command["limit"],
                first=command["first"],
            )
            before = time.process_time_ns()
            sent = traffic.blast(socks, datagrams)
            used = time.process_time_ns() - before
            print(json.dumps({**traffic.as_record(sent), "used_ns": used}), flush=True)


def planned(asked: Asked) -> dict[str, Any]:
    """What a plan takes for its answer."""
    command = asked.message
    seconds = command["count"] / command["rate"] if command["rate"] else command["limit"]
    return {
        "sent": command["count"],
        "refused": 0,
        "began_ns": 0,
        "ended_ns": int(seconds * 1e9),
        "used_ns": 1,
    }


if __name__ == "__main__":
    main()
