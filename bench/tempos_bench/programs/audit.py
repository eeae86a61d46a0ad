"""Receives for all members of a topic's groups: `python -m tempos_bench.programs.audit`.

Prints `ready`, then JSON. Every byte is checked, every event must come to each group once, and every
member must get its own share in its own numbering. The answer adds up the members; `bad_checksums` is of
the whole node.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from typing import Any

from tempos_bench.compiled import traffic
from tempos_bench.compiled.traffic import Audited, Endpoint, Events
from tempos_bench.nodes.patience import patience
from tempos_bench.programs.rehearsal import Asked


def member(text: str) -> tuple[int, Endpoint]:
    """Read ``GROUP@IP:PORT``, the group by its number."""
    group, _, endpoint = text.partition("@")
    try:
        return int(group), Endpoint.parse(endpoint)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not GROUP@IP:PORT") from error


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.audit", description=__doc__)
    parser.add_argument("members", type=member, nargs="+", help="GROUP@IP:PORT, in the order of their turns")
    parser.add_argument("--topic", type=int, required=True)
    parser.add_argument("--epoch", type=int, required=True, help="as on the wire: 0-255")
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--size", type=int, default=32, help="payload bytes of each")
    parser.add_argument("--first", type=float, default=10, help="seconds to wait for the first one")
    parser.add_argument("--idle", type=float, default=3, help="stop after so many seconds without one")
    args = parser.parse_args()
    with ExitStack() as stack:
        socks = [stack.enter_context(traffic.open_socket(bind=endpoint)) for _, endpoint in args.members]
        before = traffic.udp_counters()["InCsumErrors"]
        print("ready", flush=True)
        events = Events(args.topic, args.epoch, args.events, args.size)
        groups = [group for group, _ in args.members]
        audited = traffic.audit(socks, groups, events, patience(args.first), patience(args.idle))
        total = {name: sum(getattr(each, name) for each in audited) for name in Audited.__slots__}
        total["overrun"] = sum(map(traffic.dropped, socks))
        total["bad_checksums"] = traffic.udp_counters()["InCsumErrors"] - before
        print(json.dumps(total))


def planned(asked: Asked) -> dict[str, Any]:
    """What a plan takes for its answer."""
    counts = dict.fromkeys((*Audited.__slots__, "overrun", "bad_checksums"), 0)
    return counts | {"received": asked.sent}


if __name__ == "__main__":
    main()
