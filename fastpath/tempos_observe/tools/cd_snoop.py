"""cd-snoop: every `cd` in an interactive bash, from where to where, or why not."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tempos import Unavailable
from tempos_observe.frame.places import Function
from tempos_observe.frame.session import Session
from tempos_observe.tool import Column, Events, Example, Hook, Option, Row, Tool, Value
from tempos_observe.wishes import Wishes

_SHELL = "shell"
#: What the shell must have, and the variable of the programs that holds where it lies.
_SYMBOLS = {
    "cd_builtin": "at_cd_builtin",
    "interactive_shell": "at_interactive_shell",
    "the_current_working_directory": "at_directory",
}


def _shell(wishes: Wishes) -> Path:
    named: str | None = wishes.own[_SHELL]
    found = named or shutil.which("bash")
    if found is None:
        raise Unavailable("bash is not installed here; --shell names another")
    try:
        return Path(found).resolve(strict=True)
    except OSError as error:
        raise Unavailable(f"there is no shell {found}: {error.strerror}") from error


def _places(wishes: Wishes) -> Mapping[str, bytes]:
    from tempos_bpf.symbols import symbol_addresses

    shell = _shell(wishes)
    addresses = symbol_addresses(shell)
    for name in _SYMBOLS:
        if name not in addresses:
            raise Unavailable(f"the shell {shell} cannot be watched: it has no symbol {name}, as bash has")
    return {variable: addresses[name].to_bytes(8, sys.byteorder) for name, variable in _SYMBOLS.items()}


def _last(path: Value) -> Value:
    """As the source shows a directory: its last part."""
    return path.rstrip("/").rpartition("/")[2] or "/" if isinstance(path, str) else path


_COLUMNS = (
    Column("TIME", "time", 8),
    Column("PID", "pid", 7, "<d"),
    Column("PREV_DIR", "previous", 15, brief=_last),
    Column("CURR_DIR", "current", 15, brief=_last),
    Column("COMM", "command", 4),
    Column("ERROR", "error", 5),
)


def _rows(moves: Mapping[str, Iterable[Any]], session: Session) -> Iterable[Row]:
    results = tuple(moves["result"])
    errors = map(_error, results, *(moves[each] for each in ("form", "first", "second"))) if any(results) \
        else itertools.repeat(None, len(results))  # fmt: skip
    times = map(session.clock, moves["now_ns"])
    told = (moves[each] for each in ("pid", "previous", "current", "command"))
    return zip(times, *told, errors, strict=True)


def _error(result: int, form: str, *words: str) -> str | None:
    """What bash said, as it said it; None: nothing."""
    if not result:
        return None
    text = form or f"exit code {result}"
    for word in words:
        text = text.replace("%s", word, 1)
    return f"bash: cd: {text}"


TOOL = Tool(
    name="cd-snoop",
    question="Which directories do the users of interactive shells go to, and which can they not?",
    programs="cd_snoop",
    hooks=(
        Hook("tempos_cd_begins", "uprobe cd_builtin of bash: from where", at=Function(_shell, "cd_builtin")),
        Hook(
            "tempos_cd_fails",
            "uprobe builtin_error of bash: what it says",
            without="the text of errors",
            at=Function(_shell, "builtin_error"),
        ),
        Hook(
            "tempos_cd_ends",
            "uprobe at the return of cd_builtin of bash: to where",
            at=Function(_shell, "cd_builtin", returns=True),
        ),
    ),
    views=lambda wishes: (Events("moves", "tempos_cd", _COLUMNS, rows=_rows),),
    options=(Option(_SHELL, "the bash to watch (default: the one that is found first)", str, None, "PATH"),),
    rodata=_places,
    blind=(
        "scripts, and shells other than bash; pushd and popd",
        "another bash than that one file, such as a container's own: --shell names it",
    ),
    examples=(
        Example("cd-snoop", "every cd in every interactive bash"),
        Example("cd-snoop --pid 4254 --json", "of one shell, whole paths, for programs"),
    ),
)
