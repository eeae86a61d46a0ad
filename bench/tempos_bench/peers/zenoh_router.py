"""A Zenoh router: `python -m tempos_bench.peers.zenoh_router`. Ends by a signal."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
from typing import Any


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.peers.zenoh_router", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    zenoh: Any = importlib.import_module("zenoh")
    config = zenoh.Config()
    config.insert_json5("mode", '"router"')
    config.insert_json5("listen/endpoints", json.dumps([f"tcp/{args.address}:{args.port}"]))
    config.insert_json5("scouting/multicast/enabled", "false")
    with zenoh.open(config):
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
