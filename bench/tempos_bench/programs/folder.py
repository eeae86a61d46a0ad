"""Lends a folder: `python -m tempos_bench.programs.folder`.

Prints its path as JSON, and removes it when it ends.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from typing import Any

from tempos_bench.programs.rehearsal import Asked


def main() -> None:
    """Entry of the program."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    with tempfile.TemporaryDirectory(prefix="tempos-bench-", ignore_cleanup_errors=True) as folder:
        print(json.dumps({"folder": folder}), flush=True)
        sys.stdin.read()


def planned(asked: Asked) -> dict[str, Any]:
    """What a plan takes for its answer."""
    return {"folder": "/a-folder-of-its-own"}


if __name__ == "__main__":
    main()
