"""The C yardstick of the slow path: `python -m tempos_bench.programs.forward`.

A `recvmmsg`/`sendmmsg` loop that hands datagrams to its members in turn and does nothing else. Prints
`ready`; on SIGTERM one JSON object with what it did.
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
    args = parser.parse_args()
    # A handler that does nothing: the loop ends because its system call is interrupted.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    with traffic.open_socket(bind=args.bind) as sock:
        print("ready", flush=True)
        print(json.dumps(traffic.forward(sock, args.member)))


if __name__ == "__main__":
    main()
