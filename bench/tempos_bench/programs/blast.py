"""Sends test datagrams from a real socket: `python -m tempos_bench.programs.blast`. Prints one JSON object.

SIGTERM ends it early; it then tells what it has sent.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from tempos import Framing
from tempos_bench.compiled import traffic
from tempos_bench.programs.rehearsal import Asked


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.blast", description=__doc__)
    parser.add_argument("--to", type=traffic.Endpoint.parse, required=True)
    parser.add_argument("--topic", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--size", type=int, default=32, help="payload bytes")
    parser.add_argument("--framing", type=Framing, default=Framing.EVENT)
    parser.add_argument("--rate", type=float, default=0, help="datagrams/s; 0: without a pause")
    parser.add_argument("--limit", type=float, default=0, help="stop after so many seconds")
    parser.add_argument("--segments", type=int, default=1, help="datagrams per UDP GSO buffer")
    args = parser.parse_args()
    datagrams = traffic.Datagrams(
        topic=args.topic,
        count=args.count,
        size=args.size,
        framing=args.framing,
        interval=1 / args.rate if args.rate else 0,
        limit=args.limit,
        segments=args.segments,
    )
    traffic.end_on_sigterm()
    with traffic.open_socket(connect=args.to) as sock:
        print(json.dumps(traffic.as_record(traffic.blast(sock, datagrams))))


def planned(asked: Asked) -> dict[str, Any]:
    """What a plan takes for its answer."""
    count, rate = int(asked.options["--count"]), float(asked.options.get("--rate", 0))
    seconds = count / rate if rate else float(asked.options.get("--limit", 1))
    return {"sent": count, "refused": 0, "began_ns": 0, "ended_ns": int(seconds * 1e9)}


if __name__ == "__main__":
    main()
