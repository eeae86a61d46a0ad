"""``tempos doctor``: what this machine and installation can do, by trying, and what to do about the rest."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempos.doctor.programs import typed

if TYPE_CHECKING:
    from tempos.cli.extensions import Subparsers
    from tempos.doctor import Asked, Examination, Finding

#: Of the JSON document; a field may be added within a number, none removed or changed.
FORMAT = 1
_WIDTH = 110
_INDENT = " " * 18

_EXAMPLES = """\
examples:
  tempos doctor
        packages, kernel, interfaces: what is to be had, and what to do about the rest
  tempos doctor -c broker.toml
        held against what this configuration asks for
  tempos doctor --api http://10.0.1.1:9996 --token-file token
        also what the broker that runs there loses, leaves out, refuses
  tempos doctor --controller http://10.0.1.1:9993
        also what is wrong with the workflows of the platform there
  tempos doctor --log
        also all that the kernel's verifier says of a program that it refuses
  tempos doctor --json | jq '.areas[].findings[] | select(.severity == "warning") | {code, cause, fix}'

  tempos doctor gather -c broker.toml -o broken.tar.gz
        an archive for somebody elsewhere, without keys and tokens
  tempos doctor analyze broken.tar.gz
        there: judge it, without a network and without root

What needs root is told as unknown without it. Programs are tried in a network namespace of their own, which
is gone with its end; interfaces of this machine are only looked at, unless --attach is given.
Exit code 0 if nothing is worse than a note, 1 if something is, 2 if it could not run.
"""


def register(subparsers: Subparsers) -> None:
    """Add ``tempos doctor``."""
    parser = subparsers.add_parser(
        "doctor",
        help="tell what this machine can do, what is missing, and what to do about it",
        description="Try out what tempos can have of this machine, and say what to do about the rest.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--config", metavar="FILE", default="", help="what a broker is to be run with")
    parser.add_argument(
        "-i",
        "--interface",
        dest="interfaces",
        metavar="NAME",
        action="append",
        default=[],
        help="look at this interface (may be repeated; default: those of the configuration, else all)",
    )
    parser.add_argument(
        "--attach",
        action="store_true",
        help="put a program on these interfaces for a moment; some cards lose their link for seconds",
    )
    parser.add_argument(
        "--api",
        metavar="URL",
        help="look at the broker that runs there, too (default: $TEMPOS_API, "
        "else at the usual address, if one answers)",
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help="a file that holds the API's token (default: $TEMPOS_TOKEN)"
    )
    _add_controller(parser)
    parser.add_argument("--log", action="store_true", help="the verifier's whole log of what it refused")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.set_defaults(run=run)
    _add_actions(parser)


def _add_controller(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--controller", metavar="URL",
        help="look at the platform of this Controller, too (default: $TEMPOS_CONTROLLER, else at the usual "
        "address, if one answers)",
    )  # fmt: skip
    parser.add_argument(
        "--controller-token-file", metavar="FILE",
        help="a file that holds its token (default: $TEMPOS_CONTROLLER_TOKEN, else the one that it made for "
        "itself on this machine)",
    )  # fmt: skip


def _add_actions(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="for somebody elsewhere", metavar="[ACTION]", dest="action")
    gather = actions.add_parser(
        "gather",
        help="write an archive of all that this machine knows, without secrets",
        description="Write an archive of what was tried, the configuration without its secrets, the broker's "
        "status, ledger and log, and what the host says.",
    )
    gather.add_argument("-c", "--config", metavar="FILE", default="", help="what the broker is run with")
    gather.add_argument(
        "-o", "--output", metavar="ARCHIVE", default="tempos-doctor.tar.gz",
        help="where to (default: %(default)s)",
    )  # fmt: skip
    gather.add_argument(
        "--log-file", metavar="FILE", default="", help="the log (default: the service's journal)"
    )
    gather.add_argument(
        "--api", metavar="URL", help="the broker's API (default: $TEMPOS_API, else the usual one)"
    )
    gather.add_argument(
        "--token-file", metavar="FILE", help="a file that holds its token (default: $TEMPOS_TOKEN)"
    )
    _add_controller(gather)
    gather.set_defaults(run=run_gather)
    analyze = actions.add_parser(
        "analyze",
        help="judge what an archive holds",
        description="Judge what an archive holds, on any machine.",
    )
    analyze.add_argument("archive", metavar="ARCHIVE")
    analyze.add_argument("--log", action="store_true", help="the verifier's whole log of what it refused")
    analyze.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    analyze.set_defaults(run=run_analyze)


def run_gather(options: argparse.Namespace) -> int:
    """Try everything, write it down, judge nothing."""
    from tempos.doctor import areas, gather
    from tempos.doctor.archive import write
    from tempos.doctor.serving import token_of

    asked = _asked(options)
    found = gather(areas(), asked)
    names = write(found, Path(options.output), log=options.log_file, token=token_of(found.asked))
    print(f"{options.output}: {len(names)} files, secrets masked; look through it before you send it")
    print(f"elsewhere: tempos doctor analyze {Path(options.output).name}")
    return 0


def run_analyze(options: argparse.Namespace) -> int:
    """Judge an archive; the exit code is 1 if something is worse than a note."""
    from tempos.doctor import analyse, areas
    from tempos.doctor.archive import read

    return _tell(analyse(areas(), read(Path(options.archive))), options)


def run(options: argparse.Namespace) -> int:
    """Look at everything, print it; the exit code is 1 if something is worse than a note."""
    from tempos.doctor import areas, examine

    asked = replace(_asked(options), interfaces=tuple(options.interfaces), attach=options.attach)
    return _tell(examine(areas(), asked), options)


def _asked(options: argparse.Namespace) -> Asked:
    """Who is asked that runs, and what with."""
    from tempos.doctor import Asked

    return Asked(
        config=options.config,
        api=options.api or "",
        token_file=options.token_file or "",
        controller=options.controller or "",
        controller_token_file=options.controller_token_file or "",
    )


def _tell(found: Examination, options: argparse.Namespace) -> int:
    code = 1 if found.bad else 0
    if options.json:
        print(json.dumps(document(found, code, log=options.log), indent=2, ensure_ascii=False))
    else:
        print("\n".join(render(found, log=options.log)))
    return code


def document(found: Examination, code: int, *, log: bool) -> dict[str, Any]:
    """The whole as JSON values. A finding has a ``log`` only if asked for: it may be megabytes."""
    return {
        "doctor": FORMAT,
        "exit": code,
        "machine": found.machine,
        "asked": asdict(found.asked),
        "areas": [
            {"name": name, "findings": [_fields(finding, log=log) for finding in findings]}
            for name, findings in found.areas
        ],
    }


def render(found: Examination, *, log: bool) -> Iterator[str]:
    """The whole as lines for people."""
    facts = found.machine
    yield (
        f"tempos {facts['tempos']}, Python {facts['python']}, {facts['system']} {facts['kernel']} "
        f"({facts['machine']}), {facts['distribution'] or 'unknown distribution'}, as {facts['user']}"
    )
    for name, findings in found.areas:
        yield ""
        yield name
        width = max(len(_title(finding)) for finding in findings)
        for finding in findings:
            yield from _finding(finding, width, facts["user"], log=log)
    yield ""
    counted = Counter(finding.severity.value for finding in found.findings)
    yield ", ".join(f"{count} {severity}" for severity, count in counted.items())
    if not log and any(finding.log for finding in found.findings):
        yield "What the kernel's verifier says of what it refused: tempos doctor --log"


def _fields(finding: Finding, *, log: bool) -> dict[str, Any]:
    fields = asdict(finding)
    return fields if log else {key: value for key, value in fields.items() if key != "log"}


def _finding(finding: Finding, width: int, user: str, *, log: bool) -> Iterator[str]:
    lead = f"  {finding.severity.value:<7}  {finding.code}  "
    one = f"{lead}{_title(finding):<{width}}  {finding.cause}"
    if len(one) <= _WIDTH:
        yield one
    else:
        yield f"{lead}{_title(finding)}"
        yield from _wrapped(finding.cause)
    if finding.means:
        yield from _wrapped(f"{'if not' if finding.had is None else 'so'}: {finding.means}")
    if finding.fix:
        # Not wrapped: to be copied.
        yield f"{_INDENT}fix: {typed(finding.fix, user)}"
    if log and finding.log:
        yield from (f"{_INDENT}| {line}" for line in finding.log.splitlines())


def _wrapped(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, _WIDTH, initial_indent=_INDENT, subsequent_indent=f"{_INDENT}  ",
                             break_long_words=False, break_on_hyphens=False)  # fmt: skip


def _title(finding: Finding) -> str:
    return f"{finding.name} {finding.subject}".rstrip()
