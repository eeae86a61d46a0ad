"""`python -m tempos_bench demo` and `… bench`: the same commands as those of ``tempos``."""

from __future__ import annotations

import argparse
import sys

from tempos_bench import command


def main() -> int:
    """Parse and run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tempos_bench")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    command.demo(commands)
    command.bench(commands)
    options = parser.parse_args()
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
