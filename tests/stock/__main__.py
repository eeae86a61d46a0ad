"""The command: `python -m stock run KERNEL -- COMMAND` boots a kernel, runs a command in the tree there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stock import cache, chroot, kernels, machine, needs, root, tree
from stock.job import Step

RESULTS = tree.SOURCE / "kernel-results"


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m stock", description=__doc__)
    actions = parser.add_subparsers(required=True)
    run = actions.add_parser("run", help="boot a kernel and run a command in the tree there")
    run.add_argument("kernel", help="the package, for instance linux-image-6.12-amd64")
    run.add_argument("command", nargs="+", help="what to run; {results} is a folder that comes back")
    run.add_argument("--limit", type=float, default=600.0, help="seconds")
    run.set_defaults(do=_run)
    clean = actions.add_parser("clean", help="remove all that is kept")
    clean.set_defaults(do=_clean)
    options = parser.parse_args()
    try:
        return int(options.do(options))
    except (needs.Missing, chroot.Failed) as error:
        print(error, file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    with cache.locked():
        needs.ensure()
        kernel = kernels.prepare(options.kernel)
        disks = root.disk(), tree.disk()
    results: Path = RESULTS / "run" / options.kernel
    cache.remove(results)
    boot = machine.boot(kernel, *disks, [Step("run", tuple(options.command), options.limit)], results, print)
    output = results / "run.out"
    print(output.read_text(errors="replace") if output.exists() else "the guest told nothing")
    print(f"{boot.seconds:.0f} s; results in {results}")
    return 0 if any("exit code 0," in line for line in boot.lines) else 1


def _clean(options: argparse.Namespace) -> int:
    with cache.locked():
        for kind in ("root", "kernels", "trees", "wheels"):
            cache.remove(cache.ROOT / kind)
    return 0


if __name__ == "__main__":
    sys.exit(main())
