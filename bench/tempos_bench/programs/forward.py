"""The C yardstick of the slow path: `python -m tempos_bench.programs.forward`.

A `recvmmsg`/`sendmmsg` loop that hands datagrams to its members in turn, or (`--each PORTS`) each of them to
as many ports of one, and does nothing else. Prints `ready`; on SIGTERM one JSON object with what it did.
"""

from __future__ import annotations

import argparse
import json
import signal

from tempos_bench.compiled import traffic


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.forward", description=__doc__)
    parser.add_argument("--bind", type=traffic.Endpoint.parse, required=True)
    parser.add_argument("--member", type=traffic.Endpoint.parse, action="append", required=True)
    parser.add_argument("--each", type=int, metavar="PORTS")
    args = parser.parse_args()
    members = args.member
    if args.each:
        (first,) = members
        members = [traffic.Endpoint(first.ip, first.port + number) for number in range(args.each)]
    # A handler that does nothing: the loop ends because its system call is interrupted.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    with traffic.open_socket(bind=args.bind) as sock:
        print("ready", flush=True)
        print(json.dumps(traffic.forward(sock, members, each=bool(args.each))))


if __name__ == "__main__":
    main()
