"""Takes a command line apart, runs the command, and turns what happened into an exit code.

Exit codes: 0 done, 1 failed, 2 usage or something this machine lacks, 130 interrupted (Ctrl-C), 143
terminated. Rules: an error is one readable text on standard error; a command is imported when it is the
one to run, so that ``tempos --help`` answers at once and a broken command breaks no other.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from tempos import ConfigError, TemposError, Unavailable, __version__
from tempos._output import make_whole

FAILED = 1
COULD_NOT_RUN = 2
INTERRUPTED = 130
TERMINATED = 143

_BUILTIN = {
    "pub": "tempos.cli.pub:register",
    "sub": "tempos.cli.sub:register",
    "request": "tempos.cli.request:register",
    "status": "tempos.cli.status:register",
    "ledger": "tempos.cli.ledger:register",
    "top": "tempos.cli.top:register",
    "tap": "tempos.cli.tap:register",
    "export": "tempos.cli.export:register",
    "trace": "tempos.cli.trace:register",
    "doctor": "tempos.cli.doctor:register",
    "ctl": "tempos.cli.ctl:register",
    "fleet": "tempos.cli.fleet:register",
    "reload": "tempos.cli.ctl:register_reload",
    "completion": "tempos.cli.completion:register",
}
#: Daemons keep what they import for as long as they serve: for this one no list of extensions is read.
_DAEMONS = {"broker": "tempos_broker.command:broker"}

_EXAMPLES = """\
examples:
  tempos broker -c config/broker.toml          serve
  tempos sub -t temperature                    print events as they come
  tempos pub -t temperature -m 21.5            publish one
  tempos request -t time                       ask, print the answer
  tempos status                                paths, topics, routes, counters
  tempos ledger                                where every event went, and whether it adds up
  tempos trace temperature                     the way of one event, hop by hop
  tempos ctl path temperature fast             let a topic take the fast path
  tempos demo                                  the whole road on one machine

'tempos COMMAND --help' has the options and examples of a command.
Exit codes: 0 done, 1 failed, 2 usage or something missing, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    if "_ARGCOMPLETE" in os.environ:
        from tempos.cli import completion

        return completion.answer(parser_of)
    if argv is None:
        make_whole()
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    try:
        with _termination():
            parser = parser_of(name)
            _tell_warnings()
            options, rest = parser.parse_known_args(arguments)
            if rest and not getattr(options, "any_options", False):
                _named(parser, arguments).error(f"unrecognized arguments: {' '.join(rest)}")
            if not hasattr(options, "run"):
                parser.print_help()
                return COULD_NOT_RUN
            code = options.run(options)
            sys.stdout.flush()
            return int(code)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read has enough. What is still buffered must not raise again at the very end.
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - no path of anyone's
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        from tempos.cli import extensions

        return extensions.say_missing(name, error)
    except (ConfigError, Unavailable) as error:
        return _say(name, error, COULD_NOT_RUN)
    except TemposError as error:
        return _say(name, error, FAILED)


def parser_of(chosen: str) -> argparse.ArgumentParser:
    """The parser of the ``chosen`` command; if there is none of that name, of all, without extensions."""
    parser = argparse.ArgumentParser(
        prog="tempos",
        description="Publish and subscribe through a broker whose common case runs inside the Linux kernel.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tempos {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    if chosen in _DAEMONS:
        # What is missing or broken is told by whoever registers it otherwise.
        with contextlib.suppress(Exception):
            _find(_DAEMONS[chosen])(subparsers)
            return parser
    if chosen in _BUILTIN:
        _find(_BUILTIN[chosen])(subparsers)
        return parser
    from tempos.cli import extensions

    if not extensions.register(subparsers, chosen):
        for where in _BUILTIN.values():
            _find(where)(subparsers)
        extensions.name_all(subparsers)
    return parser


def _named(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the innermost command that the words name: its usage is the one to show."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            at = next((at for at, word in enumerate(words) if word in action.choices), None)
            if at is not None:
                return _named(action.choices[words[at]], words[at + 1 :])
    return parser


def _find(where: str) -> Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None]:
    module, _, name = where.partition(":")
    found: Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None]
    found = getattr(importlib.import_module(module), name)
    return found


def _say(name: str, error: Exception, code: int) -> int:
    print(f"tempos {name}: {error}".replace("tempos : ", "tempos: "), file=sys.stderr)
    return code


def _tell_warnings() -> None:
    """What the libraries warn about goes to standard error, unless a command sets up more."""
    logging.basicConfig(format="tempos: %(message)s", level=logging.WARNING)


@contextlib.contextmanager
def _termination() -> Iterator[None]:
    """SIGTERM ends a command as cleanly as Ctrl-C does; a command with an event loop sets its own."""

    def terminate(*_: object) -> NoReturn:
        raise SystemExit(TERMINATED)

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:
        # Not the main thread: someone else decides about signals.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
