"""A ZeroMQ proxy: `python -m tempos_bench.peers.zeromq_proxy`. Ends by a signal.

Publishers connect to `--port`, subscribers to the one above it. The loop is libzmq's own, in C.
"""

from __future__ import annotations

import argparse
import importlib
import signal
from typing import Any

#: Messages that may wait towards one peer.
HIGH_WATER = 10_000


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.peers.zeromq_proxy", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    # The proxy's loop never comes back to Python's handlers.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    zmq: Any = importlib.import_module("zmq")
    context = zmq.Context()
    inward, outward = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    for sock in (inward, outward):
        sock.set_hwm(HIGH_WATER)
    outward.setsockopt(zmq.XPUB_NODROP, 1)
    outward.bind(f"tcp://{args.address}:{args.port + 1}")
    inward.bind(f"tcp://{args.address}:{args.port}")
    zmq.proxy(inward, outward)


if __name__ == "__main__":
    main()
