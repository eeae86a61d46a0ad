"""Commands that other packages bring, through the entry-point group ``tempos.commands``.

An entry point is a function ``register(subparsers)`` that adds its own parser and sets ``run``. Only the
one that was asked for is loaded; the help of all shows what is written here.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib import metadata

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

GROUP = "tempos.commands"
COULD_NOT_RUN = 2

#: The project's own commands: name -> (help, the extra that brings what they need).
OWN = {
    "broker": ("run a broker", "broker"),
    "config": ("check, convert or write a configuration", "broker"),
    "up": ("run all of a platform's file: broker, triggers, invokers, Controller", "controller"),
    "workflow": ("list, show, change, remove or watch workflows", "controller"),
    "platform": (
        "check a platform's file, tell what it would change; list and remove what there is",
        "controller",
    ),
    "tsn": ("plan a time-aware schedule (IEEE 802.1Qbv) for an interface", "broker"),
    "director": ("take over what samplicator, nginx or pmacct copy and spread", "broker"),
    "fastpath": ("list or remove fast paths of this machine", "fastpath"),
    "observe": ("see what processes and the network really do", "fastpath"),
    "demo": ("publisher, broker and subscriber in three nodes on this machine", "bench"),
    "bench": ("measure, and hold the figures against their targets", "bench"),
    "trigger": ("turn signals from outside into events", "trigger"),
    "invoker": ("let events call functions", "invoker"),
    "function": ("list and call functions", "invoker"),
    "errors": ("list, show and redrive invocations that failed", "invoker"),
}


#: Which extra brings what a command needs.
_EXTRAS = {
    "completion": "completion",
    "export": "export",
    **{name: extra for name, (_, extra) in OWN.items()},
}


def register(subparsers: Subparsers, chosen: str) -> bool:
    """Add the parser of the extension ``chosen``; whether there is, or should be, one of that name."""
    point = next((each for each in _entry_points() if each.name == chosen), None) if chosen else None
    if point is None and chosen not in OWN:
        return False
    _register_chosen(subparsers, chosen, point)
    return True


def name_all(subparsers: Subparsers) -> None:
    """Add all extensions by name, with what the help shows of them."""
    found = {point.name: point for point in _entry_points()}
    for name in dict.fromkeys((*OWN, *sorted(found))):
        origin = found[name].dist if name in found else None
        text = OWN[name][0] if name in OWN else f"from the package {origin.name if origin else '?'}"
        subparsers.add_parser(name, help=text, add_help=False)


def say_missing(name: str, error: ModuleNotFoundError) -> int:
    """Tell which extra brings the module that a command did not find."""
    missing = (error.name or str(error)).partition(".")[0]
    if name in _EXTRAS:
        hint = f"pip install 'tempos[{_EXTRAS[name]}]'"
        print(f"tempos {name}: needs {missing}, which is not installed: {hint}", file=sys.stderr)
    else:
        print(f"tempos {name}: needs {missing}, which is not installed", file=sys.stderr)
    return COULD_NOT_RUN


def _entry_points() -> Iterable[metadata.EntryPoint]:
    from importlib import metadata

    return metadata.entry_points(group=GROUP)


def _register_chosen(subparsers: Subparsers, name: str, point: metadata.EntryPoint | None) -> None:
    if point is None:
        _add_failing(subparsers, name, ModuleNotFoundError(f"the command {name}", name=f"tempos_{name}"))
        return
    try:
        point.load()(subparsers)
    except ModuleNotFoundError as error:
        _add_failing(subparsers, name, error)
    except Exception:  # noqa: BLE001 - foreign code; whatever it is, it has to be told, not to spread
        _add_failing(subparsers, name, traceback.format_exc(limit=-3))


def _add_failing(subparsers: Subparsers, name: str, why: ModuleNotFoundError | str) -> None:
    """A command that takes any options and says why it cannot run."""
    parser = subparsers.choices.get(name) or subparsers.add_parser(name, add_help=False)

    def run(options: argparse.Namespace) -> int:
        if isinstance(why, ModuleNotFoundError):
            return say_missing(name, why)
        print(f"tempos {name}: this command is broken:\n{why}", file=sys.stderr, end="")
        return COULD_NOT_RUN

    parser.set_defaults(run=run, any_options=True)
