"""Receives test datagrams: `python -m tempos_bench.programs.sink`. Prints `ready`, then one JSON object.

Counting (the default) checks every byte, and ends when nothing has come for a while. With `--discard` the
kernel drops and counts instead, so that the receiver takes no time from what is measured; a mark of
(nanoseconds, datagrams) is kept each 5 ms. It ends when nothing comes any more once a line on standard input
has told it that all is sent: on a busy machine there are pauses before.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from tempos import Framing
from tempos_bench.compiled import traffic
from tempos_bench.nodes.patience import patience
from tempos_bench.programs.rehearsal import Asked

_MARK_EVERY = 0.005


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.sink", description=__doc__)
    parser.add_argument("--bind", type=traffic.Endpoint.parse, action="append", required=True)
    parser.add_argument("--expect", type=int, default=0, help="stop after so many datagrams")
    parser.add_argument("--size", type=int, default=32, help="payload bytes of each")
    parser.add_argument("--framing", type=Framing, default=Framing.EVENT)
    parser.add_argument("--first", type=float, default=10, help="seconds to wait for the first one")
    parser.add_argument("--idle", type=float, default=3, help="stop after so many seconds without one")
    parser.add_argument("--discard", action="store_true")
    args = parser.parse_args()
    with ExitStack() as stack:
        socks = [stack.enter_context(traffic.open_socket(bind=endpoint)) for endpoint in args.bind]
        if args.discard:
            for sock in socks:
                traffic.discard(sock)
        print("ready", flush=True)
        if args.discard:
            print(json.dumps(_discard(socks, patience(args.idle))))
        else:
            limits = patience(args.first), patience(args.idle)
            sunk = traffic.sink(socks, args.expect, args.size, args.framing, *limits)
            print(json.dumps(traffic.as_record(sunk)))


def _discard(socks: Sequence[socket.socket], idle: float) -> dict[str, object]:
    marks = [(traffic.now_ns(), 0)]
    told_ns: int | None = None
    bad_before = traffic.udp_counters()["InCsumErrors"]
    while True:
        time.sleep(_MARK_EVERY)
        now, count = traffic.now_ns(), sum(map(traffic.dropped, socks))
        # The end of the input tells it, too: nobody is there any more.
        if told_ns is None and select.select([sys.stdin], [], [], 0)[0]:
            told_ns = now
        last_ns, last_count = marks[-1]
        if count > last_count:
            marks.append((now, count))
        elif told_ns is not None and now - max(last_ns, told_ns) > idle * 1e9:
            bad = traffic.udp_counters()["InCsumErrors"] - bad_before
            return {"marks": marks, "received": last_count - bad, "bad_checksums": bad}


def planned(asked: Asked) -> dict[str, Any]:
    """What a plan takes for its answer."""
    counts = dict.fromkeys(("repeated", "damaged", "bad_checksums", "overrun"), 0)
    received = int(asked.options.get("--expect", asked.sent))
    marks = [(int(number * _MARK_EVERY * 1e9), number) for number in range(1000)]
    return {"received": received, "marks": marks, **counts}


if __name__ == "__main__":
    main()
