"""``tempos completion``: a shell that completes a word asks the command itself what may stand there.

argcomplete answers from the parser: commands (those of other packages, too), options, choices, files. What
only a broker knows, its topics, groups and members, it is asked for, for a second at most; without an answer
there is nothing to choose from, for nobody who presses the tab key wants to read why.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from tempos._abi import API_PORT
from tempos.cli.api import Api
from tempos.errors import TemposError

if TYPE_CHECKING:
    from tempos.cli.extensions import Subparsers

_ActionT = TypeVar("_ActionT", bound=argparse.Action)

#: Seconds that completing a word may take.
_PATIENCE = 1.0

_EXAMPLES = """\
examples:
  source <(tempos completion bash)
  tempos completion zsh > "${fpath[1]}/_tempos"

Needs argcomplete: pip install 'tempos[completion]'. Topics, groups and members are those of the broker that
--api, $TEMPOS_API or $TEMPOS_BROKER names, with the token in $TEMPOS_TOKEN.
"""


def register(subparsers: Subparsers) -> None:
    """Add ``tempos completion``."""
    parser = subparsers.add_parser(
        "completion",
        help="print a script that completes commands, options, topics and members",
        description="Print a script that lets a shell complete commands, options, topics and members.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=("bash", "zsh"))
    parser.set_defaults(run=_print)


def _print(options: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["tempos"], shell=options.shell), end="")
    return 0


def answer(parser: Callable[[str], argparse.ArgumentParser]) -> int:
    """Tell the shell which words may follow; ``parser`` makes that of the command of this name."""
    try:
        import argcomplete
        from argcomplete.lexers import split_line
    except ModuleNotFoundError:
        return 1
    line, point = os.environ.get("COMP_LINE", ""), os.environ.get("COMP_POINT", "0")
    words: Sequence[str] = split_line(line, int(point) if point.isdecimal() else 0)[3]
    name = next((word for word in words[1:] if not word.startswith("-")), "")
    argcomplete.autocomplete(parser(name), always_complete_options=False)
    return 1


def with_topics(action: _ActionT) -> _ActionT:
    """The argument is the name of a topic."""
    return with_words(action, lambda options: [topic["name"] for topic in _api(options).get("/v1/topics")])


def with_clients(action: _ActionT) -> _ActionT:
    """The argument is the id of a client."""
    return with_words(
        action, lambda options: [each["id"] for each in _api(options).get("/v1/clients")["clients"]]
    )


def with_groups(action: _ActionT) -> _ActionT:
    """The argument is a group of the topic in front of it."""
    return with_words(action, lambda options: [group["name"] for group in _route(options)["groups"]])


def with_members(action: _ActionT) -> _ActionT:
    """The argument is a member of the topic and group in front of it."""

    def members(options: argparse.Namespace) -> list[str]:
        return [
            member
            for group in _route(options)["groups"]
            if group["name"] == options.group
            for member in group["members"]
        ]

    return with_words(action, members)


def with_words(action: _ActionT, ask: Callable[[argparse.Namespace], Iterable[str]]) -> _ActionT:
    """The argument is one of the words that ``ask`` gives, for what stands in front of it."""

    def complete(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
        try:
            return [word for word in ask(parsed_args) if word.startswith(prefix)]
        except (TemposError, LookupError, TypeError, AttributeError):
            return []

    action.completer = complete  # type: ignore[attr-defined]
    return action


def _api(options: argparse.Namespace) -> Api:
    known = argparse.Namespace(
        api=getattr(options, "api", None),
        usual_port=API_PORT,
        token_file=getattr(options, "token_file", None),
        fail=_refuse,
    )
    return Api.of(known, _PATIENCE)


def _refuse(what: str) -> None:
    raise TemposError(what)


def _route(options: argparse.Namespace) -> dict[str, Any]:
    route: dict[str, Any] = _api(options).get(f"/v1/topics/{quote(options.topic, safe='')}/route")
    return route
