"""Publishes by a schedule: `python -m tempos_bench.programs.pace`. Prints `ready`, then answers commands.

A command is one JSON line, {"lanes": [...], "begin_ns": ..., "length": ..., "size": ...} and what else
:func:`tempos_bench.compiled.latency.pace` takes; the answer, after the last event, tells of each lane what
was sent. Ends with its input.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from tempos_bench.compiled import latency, traffic
from tempos_bench.programs.rehearsal import Asked


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.pace", description=__doc__)
    parser.add_argument("--to", type=traffic.Endpoint.parse, required=True)
    parser.add_argument("--fifo", type=int, default=0, help="SCHED_FIFO priority; 0: ordinary scheduling")
    args = parser.parse_args()
    lacking = latency.real_time(args.fifo)
    with traffic.open_socket(connect=args.to) as sock:
        print("ready", lacking or "", flush=True)
        for line in sys.stdin:
            command = json.loads(line)
            lanes = [latency.Lane(**lane) for lane in command.pop("lanes")]
            paced = latency.pace(sock, lanes, **command)
            print(json.dumps({"lanes": [dataclasses.asdict(lane) for lane in paced]}), flush=True)


def planned(asked: Asked) -> dict[str, Any]:
    """What a plan takes for its answer."""
    lanes = asked.message["lanes"]
    return {
        "lanes": [
            {"topic": lane["topic"], "sent": lane["count"], "slipped": 0, "late": 0.0, "latest": 0.0}
            for lane in lanes
        ]
    }


if __name__ == "__main__":
    main()
