"""The command: `python -m stock ACTION`, run from `tests/`.

test [--short] [KERNEL ...]    the suite on each kernel, by the name of its package
host [--short]                 the same on this machine's own kernel
     [--only STEP]             these steps of it; what is there of the others stays
     [--again]                 the tests that failed or did not run last time; the others stay
     [--minutes N]             no test begins later than that after its step; --again goes on from there
run KERNEL -- COMMAND ...      any command in the tree on one kernel
table                          put what the full runs found into the documents
clean                          remove everything that is kept
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from stock import cache, chroot, documents, needs, session, suites
from stock.session import RESULTS

#: What Debian 12 gives people: its own kernel, and the newer one of its security archive.
KERNELS = ("linux-image-amd64", "linux-image-6.12-amd64")


def main() -> int:
    """Do what the command line says; the exit code is 0 if all was as it should be."""
    options = _options()
    try:
        return int(options.do(options))
    except needs.Missing as missing:
        if os.environ.get("CI") == "true":
            print(f"CI must run this: {missing}", file=sys.stderr)
            return 1
        print(f"skipped: {missing}", file=sys.stderr)
        return 0
    except (chroot.Failed, suites.UnknownStep) as error:
        print(error, file=sys.stderr)
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stock", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    test = actions.add_parser("test", help="the suite on each kernel")
    test.add_argument("kernels", nargs="*", default=KERNELS, metavar="KERNEL")
    host = actions.add_parser("host", help="the suite on this machine's kernel")
    for each in (test, host):
        each.add_argument("--short", action="store_true", help="what tells in minutes")
        each.add_argument("--only", action="append", default=[], metavar="STEP",
                          help="these steps, beside what is there of the others")  # fmt: skip
        each.add_argument(
            "--again", action="store_true", help="the tests that failed or did not run last time"
        )
        each.add_argument("--minutes", type=float, default=None,
                          help="of each step, after which no test begins")  # fmt: skip
    run = actions.add_parser("run", help="boot a kernel and run a command in the tree there")
    run.add_argument("kernel", help="the package, for instance linux-image-6.12-amd64")
    run.add_argument("command", nargs="+", help="what to run; {results} is a folder that comes back")
    run.add_argument("--limit", type=float, default=1800.0, help="seconds, %(default)s if not said")
    table = actions.add_parser("table", help="put what the full runs found into the documents")
    clean = actions.add_parser("clean", help="remove everything that is kept")
    for action, do in ((test, _test), (host, _host), (run, _run), (table, _table), (clean, _clean)):
        action.set_defaults(do=do)
    return parser.parse_args()


def _test(options: argparse.Namespace) -> int:
    return session.report([session.booted(kernel, **_which(options)) for kernel in options.kernels])


def _host(options: argparse.Namespace) -> int:
    return session.report([session.here(**_which(options))])


def _which(options: argparse.Namespace) -> dict[str, Any]:
    # A name that no step has is told at once, and not when a machine is ready for it.
    suites.chosen(options.only, short=options.short)
    return {"short": options.short, "only": options.only, "again": options.again, "minutes": options.minutes}


def _run(options: argparse.Namespace) -> int:
    return session.command(options.kernel, options.command, options.limit)


def _table(options: argparse.Namespace) -> int:
    documents.write(RESULTS)
    return 0


def _clean(options: argparse.Namespace) -> int:
    cache.clean()
    return 0


if __name__ == "__main__":
    sys.exit(main())
