"""The commands of this package: ``tempos demo`` and ``tempos bench``.

Each function adds one command to the parser of ``tempos`` and sets ``run``, which takes the parsed
options and returns the exit code. What a command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tempos import ConfigError, TemposError
from tempos._files import write_whole
from tempos.cli.completion import with_words

if TYPE_CHECKING:
    from types import FrameType

    from tempos_bench.nodes.hosts import Hosts
    from tempos_bench.report.figures import Report
    from tempos_bench.runs.scenario import Scenario

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_OK, EXIT_SHORT, EXIT_UNABLE, EXIT_UNCLEAR, EXIT_INTERRUPTED = 0, 1, 2, 3, 130
#: Of several scenarios the worst is told.
_WORST_FIRST = (EXIT_UNABLE, EXIT_SHORT, EXIT_UNCLEAR, EXIT_OK)

_DEMO_EXAMPLES = """\
examples:
  tempos demo
        three nodes, real events over every path, then a workflow; two tables (about 40 seconds, as root)
  tempos demo --json
        the same for scripts
  tempos demo --way native
        the fast path in native mode, and no other; with --events-only: nothing of the workflow
  tempos demo fleet
        three brokers, one bus: one is killed under traffic and comes back (half a minute; needs etcd)

A row is named for what carried its events. As root every way is tried; one that cannot be had here is told,
and 'tempos doctor' says more. Without root or network namespaces: the slow path on loopback, and what is
missing. Leaves nothing behind, also after Ctrl-C.
The second table is a workflow: an HTTP call becomes an event in one node, a function in another one makes
something of it, and the result comes back as the answer; broker and Controller are in the third.
Exit code 0 if every event arrived and every call was answered, ledger and accounts close, and each way that
was tried is the one that the events took; 1 if not, 2 if the demo could not run.
"""

_BENCH_EXAMPLES = """\
examples:
  tempos bench list
        every scenario, and what it measures
  tempos bench run redirect
        one of them: a table, each figure beside its target
  tempos bench run redirect --json redirect.json
        the same, and everything measured in a file
  tempos bench run all --json-dir bench-results
        all of them, one file each; with --plan: what is left, and its hours; with --resume: only that
  tempos bench run redirect --short --set payload=256
        fewer rounds, and another payload
  tempos bench run source-rtt --hosts root@192.0.2.11,root@192.0.2.10,root@192.0.2.12 --plan
        what would run where on three hosts; without --plan: run it there
  tempos bench report bench-results -o report.html
        one page of all of them, with plots
  tempos bench compare before after
        what got better or worse between two runs (files or folders), beyond their noise

A figure that was measured in rounds meets or misses its target where the whole interval does that they leave
for it; else, or where they are too few, or what it was held against must have been disturbed, it is unclear.

Exit code 0 if every figure that has a target meets it, 1 if one falls short (compare: if something got
worse), 3 if none does and one is unclear, 2 if a scenario could not run. Ctrl-C keeps what is finished, and
exits with 130.
"""


def demo(subparsers: Subparsers) -> None:
    """Add ``tempos demo``."""
    parser = subparsers.add_parser(
        "demo",
        help="publisher, broker and subscriber in three nodes on this machine",
        description="Publish real events over every path there is here, and compare.",
        epilog=_DEMO_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument(
        "--way",
        dest="ways",
        action="append",
        choices=("direct", "slow", "generic", "native"),
        default=[],
        help="show this one only (may be repeated)",
    )
    parser.add_argument("--events-only", action="store_true", help="without the workflow")
    parser.add_argument(
        "what", nargs="?", choices=("fleet",), metavar="fleet",
        help="several brokers instead: three and an etcd, of which one is killed under traffic",
    )  # fmt: skip
    parser.set_defaults(run=_run_demo)


def bench(subparsers: Subparsers) -> None:
    """Add ``tempos bench`` with its actions: list, run, report, compare."""
    parser = _with_examples(
        subparsers,
        "bench",
        help="measure, and hold the figures against their targets",
        description="Reproducible measurements on three nodes of this machine, or hosts. Needs root.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="tell which scenarios there are")
    listing.set_defaults(run=_run_list)
    _add_run(actions)
    reporting = _with_examples(actions, "report", help="make one HTML page of the results in a folder")
    reporting.add_argument("folder", type=Path, metavar="DIR", help="as written by 'run --json-dir'")
    reporting.add_argument("-o", "--output", type=Path, metavar="FILE", default=Path("report.html"))
    reporting.set_defaults(run=_run_report)
    comparing = _with_examples(actions, "compare", help="tell what changed between two runs")
    comparing.add_argument("old", type=Path, metavar="OLD", help="a result file, or a folder of them")
    comparing.add_argument("new", type=Path, metavar="NEW")
    comparing.add_argument(
        "--tolerance",
        type=float,
        default=3.0,
        metavar="PERCENT",
        help="changes up to this size are noise, whatever the rounds say (default 3)",
    )
    comparing.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    comparing.set_defaults(run=_run_compare)


def _with_examples(
    actions: Subparsers,
    name: str,
    help: str,  # noqa: A002 - as argparse names it
    description: str | None = None,
) -> argparse.ArgumentParser:
    return actions.add_parser(
        name,
        help=help,
        description=description,
        epilog=_BENCH_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _scenarios() -> tuple[str, ...]:
    from tempos_bench.runs.scenario import names

    return names()


def _add_run(actions: Subparsers) -> None:
    running = _with_examples(actions, "run", help="run scenarios, or all")
    given = running.add_argument("names", metavar="NAME", nargs="+",
                                 help="scenarios of 'tempos bench list', or: all")  # fmt: skip
    with_words(given, lambda _: (*_scenarios(), "all"))
    running.add_argument("--short", action="store_true", help="a quick look: the file's [short] parameters")
    running.add_argument("--set", dest="changes", action="append", default=[], metavar="NAME=VALUE",
                         help="another value for a parameter of the scenario; may be repeated")  # fmt: skip
    running.add_argument("--samplicator", type=Path, metavar="PATH",
                         help="its binary, which Debian has not: director measures it, too")  # fmt: skip
    target = running.add_mutually_exclusive_group()
    target.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here, one scenario")
    target.add_argument(
        "--json-dir", type=Path, metavar="DIR", help="also write the figures here, one file each"
    )
    running.add_argument(
        "--hosts",
        metavar="A,B,C",
        help="publisher, broker and subscriber are these hosts, reached by ssh, instead of namespaces: "
        "[user@]IPv4 each, or a name in the file",
    )
    running.add_argument(
        "--hosts-file",
        type=Path,
        metavar="FILE",
        help="describes the hosts, as config/hosts.example.toml does (default: hosts.toml, if there is one)",
    )
    running.add_argument(
        "--resume",
        action="store_true",
        help="with --json-dir: what was measured whole there, by this commit on this machine with these "
        "parameters, stands; only the rest is run",
    )
    running.add_argument(
        "--plan",
        action="store_true",
        help="only print what would run: with --hosts what where, with --json-dir what is left, and how long "
        "it took when it was last run",
    )
    running.set_defaults(run=_run_scenarios)


def _show_fleet(options: argparse.Namespace) -> int:
    from tempos_bench.fleet import demo
    from tempos_bench.runs.progress import Lines

    lines = Lines("demo", sys.stderr)
    shown = demo.run(lambda text: lines.show(text, 0, 0, None))
    if options.json:
        print(json.dumps(asdict(shown) | {"sound": shown.sound}, indent=2))
    else:
        print(demo.as_text(shown))
    return EXIT_OK if shown.sound else EXIT_SHORT


def _run_demo(options: argparse.Namespace) -> int:
    if options.what == "fleet":
        return _guarded("demo", lambda: _show_fleet(options))

    def show() -> int:
        from tempos_bench.demo import demo, workflow
        from tempos_bench.runs.progress import Lines

        lines = Lines("demo", sys.stderr)

        def progress(text: str) -> None:
            lines.show(text, 0, 0, None)

        outcomes, lacking = demo.run(progress, options.ways)
        called, why = ([], None) if options.events_only else workflow.run(progress, lacking, options.ways)
        if options.json:
            rows = [
                asdict(outcome) | {"name": outcome.name, "taken": outcome.taken, "lost": outcome.lost}
                for outcome in outcomes
            ]
            workflows = [each.document() for each in called]
            print(json.dumps({"rows": rows, "workflows": workflows, "no_workflow": why, "missing": lacking}))
        else:
            print(demo.as_text(outcomes, lacking))
            if called or why:
                print(workflow.as_text(called, why))
        carried = [*outcomes, *(each.carried for each in called)]
        shown = all(each.sound and each.taken for each in carried) and all(each.sound for each in called)
        return EXIT_OK if shown and why is None else EXIT_SHORT

    return _guarded("demo", show)


def _run_list(options: argparse.Namespace) -> int:
    def show() -> int:
        from tempos_bench.runs import scenario

        scenarios = [scenario.load(name) for name in scenario.names()]
        width = max(len(one.name) for one in scenarios)
        print("\n".join(f"{one.name.ljust(width)}  {one.description}" for one in scenarios))
        return EXIT_OK

    return _guarded("bench list", show)


def _run_scenarios(options: argparse.Namespace) -> int:
    from tempos_bench.runs import scenario

    names = scenario.names() if options.names == ["all"] else options.names
    if len(names) > 1 and options.json:
        print("tempos bench run: several scenarios need --json-dir, not --json", file=sys.stderr)
        return EXIT_UNABLE
    if options.resume and not options.json_dir:
        print("tempos bench run: --resume needs --json-dir, the folder of what is there", file=sys.stderr)
        return EXIT_UNABLE
    if options.plan and options.hosts is None:
        return _guarded("bench run", lambda: _show_plan(names, options))
    codes = {EXIT_OK}
    for name in names:
        code = _guarded(f"bench run {name}", lambda name=name: _measure(name, options))  # type: ignore[misc]
        if code == EXIT_INTERRUPTED:
            return code
        codes.add(code)
    return next(code for code in _WORST_FIRST if code in codes)


def _measure(name: str, options: argparse.Namespace) -> int:
    from tempos_bench.report.figures import as_text
    from tempos_bench.runs import progress, scenario
    from tempos_bench.runs.run import Run

    loaded = scenario.load(name, short=options.short, changes=_changes(name, options))
    place = _place(name, options)
    if options.plan and place is not None:
        from tempos_bench.runs import plan

        print(plan.plan(loaded, place), end="\n\n", flush=True)
        return EXIT_OK
    if options.resume and (stands := _standing(loaded, options.json_dir)):
        print(f"{name}: there, measured {stands.started}", flush=True)
        return _code(stands)
    with progress.display(name) as display:
        result = scenario.run(loaded, Run(display, place=place))
    print(as_text(result), end="\n\n", flush=True)
    _write(result, options.json_dir / f"{name}.json" if options.json_dir else options.json)
    if not result.complete:
        print(f"tempos bench run {name}: interrupted; what was finished is kept", file=sys.stderr)
        return EXIT_INTERRUPTED
    return _code(result)


def _changes(name: str, options: argparse.Namespace) -> list[str]:
    """Parameters of a scenario that are others than its file says."""
    binary = options.samplicator if name == "director" else None
    return [*options.changes, *([f"samplicator={json.dumps(str(binary.absolute()))}"] if binary else [])]


def _code(report: Report) -> int:
    from tempos_bench.report.figures import Verdict

    return {Verdict.MISSED: EXIT_SHORT, Verdict.UNCLEAR: EXIT_UNCLEAR}.get(report.verdict, EXIT_OK)


def _standing(loaded: Scenario, folder: Path) -> Report | None:
    """The result of a scenario that need not be measured again."""
    from tempos_bench.runs import kept

    report = kept.reports(folder, [loaded.name]).get(loaded.name)
    return None if kept.why_again(loaded, report) else report


def _show_plan(names: Sequence[str], options: argparse.Namespace) -> int:
    from tempos_bench.runs import kept, scenario

    if options.json_dir is None:
        raise ConfigError(["--plan: with --hosts what would run where, with --json-dir what is left to run"])
    loaded = [scenario.load(name, short=options.short, changes=_changes(name, options)) for name in names]
    print(kept.plan(loaded, kept.reports(options.json_dir, names)))
    return EXIT_OK


def _place(name: str, options: argparse.Namespace) -> Hosts | None:
    if options.hosts is None:
        return None
    from tempos_bench.nodes import hosts

    found = hosts.read(options.hosts_file, options.hosts.split(","))
    if reason := hosts.why_not(name):
        raise ConfigError(
            [f"{name} does not run on hosts: {reason}; those that do: {', '.join(hosts.ON_HOSTS)}"]
        )
    return found


def _write(result: Report, path: Path | None) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, f"{json.dumps(result.as_json(), indent=1)}\n".encode())
    _draw([result], path.parent)


def _draw(reports: Iterable[Report], folder: Path) -> None:
    from tempos_bench.report import plot

    try:
        for each in reports:
            plot.draw(each, folder)
    except TemposError as error:
        print(f"tempos bench: no pictures: {error}", file=sys.stderr)


def _run_report(options: argparse.Namespace) -> int:
    def make() -> int:
        from tempos_bench.report import html, results

        found = results.read(options.folder)
        _draw(found.values(), options.folder if options.folder.is_dir() else options.folder.parent)
        write_whole(options.output, html.page(found, options.folder).encode())
        print(f"{options.output}: {len(found)} scenarios")
        return EXIT_OK

    return _guarded("bench report", make)


def _run_compare(options: argparse.Namespace) -> int:
    def show() -> int:
        from tempos_bench.report import compare, results

        old, new = results.read(options.old), results.read(options.new)
        found = compare.compare(old, new, options.tolerance / 100)
        print(json.dumps(found.as_json()) if options.json else compare.as_text(found))
        return EXIT_SHORT if found.worse else EXIT_OK

    return _guarded("bench compare", show)


def _guarded(command: str, work: Callable[[], int]) -> int:
    """Run ``work``; what stands in its way becomes a line and an exit code, a signal ends it in order."""
    try:
        with _ended_by_sigterm():
            return work()
    except (TemposError, OSError) as error:
        print(f"tempos {command}: {error}", file=sys.stderr)
        return EXIT_UNABLE
    except KeyboardInterrupt:
        print(f"tempos {command}: interrupted; everything it made is gone", file=sys.stderr)
        return EXIT_INTERRUPTED


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Make SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that everything is taken down."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
