"""Measures round trips, one datagram at a time: `python -m tempos_bench.programs.ping`.

Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from tempos_bench.compiled import traffic
from tempos_bench.programs.rehearsal import Asked


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.ping", description=__doc__)
    parser.add_argument("--bind", type=traffic.Endpoint.parse, required=True)
    parser.add_argument("--to", type=traffic.Endpoint.parse, required=True)
    parser.add_argument("--topic", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--warm-up", type=int, default=200, help="round trips before those that count")
    parser.add_argument("--size", type=int, default=32, help="payload bytes")
    parser.add_argument("--interval", type=float, default=0, help="seconds from one to the next; 0: no pause")
    parser.add_argument("--timeout", type=float, default=0.5, help="seconds until one counts as lost")
    args = parser.parse_args()
    with traffic.open_socket(bind=args.bind) as sock:

        def measure(count: int) -> list[int]:
            datagrams = traffic.Datagrams(args.topic, count, args.size, interval=args.interval)
            return traffic.ping(sock, args.to, datagrams, args.timeout)

        measure(args.warm_up)
        samples = measure(args.count)
        print(json.dumps({"sent": args.count, "lost": args.count - len(samples), "samples_ns": samples}))


def planned(asked: Asked) -> dict[str, Any]:
    """What a plan takes for its answer."""
    return {"sent": int(asked.options["--count"]), "lost": 0, "samples_ns": [1000]}


if __name__ == "__main__":
    main()
