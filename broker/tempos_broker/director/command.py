"""The command ``tempos director``: what other programs that copy and spread datagrams were told, as topics.

What it needs is imported when it runs: ``tempos --help`` must not pay for it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempos_broker.director.found import Found

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_OK, _FAILED, _SOME_LEFT_OUT = 0, 1, 3
KINDS = ("samplicator", "nginx", "pmacct")

_EXAMPLES = """\
Reads the configuration of samplicator, of nginx (stream) or of pmacct (nfacctd, sfacctd with tee), and
prints topics by port that copy and spread the same datagrams: put them into a broker's file. What cannot be
taken over stands as a comment above them, and on standard error, with file and line.

examples:
  tempos director import samplicator.conf --ports 2055 --keep-source
        samplicate -p 2055 -S -c samplicator.conf
  tempos director import --kind samplicator --ports 2055 --to 10.0.2.11/2055 --to 10.0.2.20/9995/100
        samplicate -p 2055 10.0.2.11/2055 10.0.2.20/9995/100
  tempos director import /etc/nginx/nginx.conf
        each server of the stream module that listens for datagrams; needs the extra "director"
  tempos director import /etc/pmacct/nfacctd.conf -o topics.toml && tempos config check topics.toml
        a file, with what its maps of receivers and tags say

Exit code 0 if all was taken over, 3 if some was left out, 1 if nothing was, 2 for usage.
"""


def register(subparsers: Subparsers) -> None:
    """Add ``tempos director import``."""
    parser = subparsers.add_parser(
        "director",
        help="take over what samplicator, nginx or pmacct copy and spread",
        description="Copying and spreading of what existing senders send, as other programs were told.",
        epilog="examples:\n  tempos director import --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    read = actions.add_parser(
        "import",
        help="print the topics that do what another program's configuration says",
        description="Print the topics that do what another program's configuration says.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = read.add_argument
    add("file", metavar="FILE", nargs="?", type=Path, help="its configuration")
    add("--kind", choices=KINDS, help="whose it is (default: told by what stands in it)")
    add("--ports", metavar="PORTS", type=_ports, default=(),
        help="where it listens, as in 2055,9995 (default: what the file says; of samplicator 2000); "
             "nginx: only servers that listen there")  # fmt: skip
    add("--to", metavar="RECEIVER", action="append", default=[],
        help="samplicator: a receiver of its command line, ADDRESS[/PORT[/EVERY]]; "
             "may be repeated")  # fmt: skip
    add("--keep-source", action="store_true",
        help="datagrams keep their senders' addresses (samplicator -S; the others' files "
             "tell)")  # fmt: skip
    add("-o", "--output", metavar="OUT", type=Path, help="write to this file (default: print)")
    read.set_defaults(run=_run, parser=read)


def _run(options: argparse.Namespace) -> int:
    from tempos._files import write_whole
    from tempos_broker.director.found import Unreadable, document

    if options.file is None and not options.to:
        options.parser.error("a FILE, or samplicator's receivers (--to), must be named")
    try:
        kind = options.kind or ("samplicator" if options.file is None else _kind(options.file))
        if options.to and kind != "samplicator":
            options.parser.error(f"--to is for samplicator; {options.file} is of {kind}")
        if options.file is None and kind != "samplicator":
            options.parser.error(f"{kind} is told by a FILE")
        found = _read(kind, options)
        origin = str(options.file or "samplicator's command line")
        text = document(found, origin)
        if options.output:
            write_whole(options.output, text.encode())
        else:
            sys.stdout.write(text)
    except Unreadable as error:
        print(f"tempos director import: {error}", file=sys.stderr)
        return _FAILED
    except OSError as error:
        print(
            f"tempos director import: {options.output} cannot be written: {error.strerror}", file=sys.stderr
        )
        return _FAILED
    for line in found.remarks:
        print(line, file=sys.stderr)
    for line in found.left_out:
        print(f"left out: {line}", file=sys.stderr)
    return _SOME_LEFT_OUT if found.left_out else _OK


def _read(kind: str, options: argparse.Namespace) -> Found:
    from tempos_broker.director import nginx, pmacct, samplicator

    if kind == "samplicator":
        return samplicator.read(options.file, options.ports, options.to, options.keep_source)
    read = nginx.read if kind == "nginx" else pmacct.read
    return read(options.file, options.ports, options.keep_source)


def _kind(path: Path) -> str:
    from tempos_broker.director.found import text_of

    lines = [line.strip() for line in text_of(path).splitlines()]
    said = [line for line in lines if line and line[0] not in "#!"]
    if any(line.startswith(("plugins", "tee_receivers")) for line in said):
        return "pmacct"
    return "nginx" if any(line.endswith(("{", ";", "}")) for line in said) else "samplicator"


def _ports(text: str) -> tuple[int, ...]:
    from tempos_broker.director.found import port_of

    try:
        return tuple(dict.fromkeys(port_of(each.strip()) for each in text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
