"""Commands that the manual, its neighbours and the helps show are such as the program takes."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tempos.cli.main import parser_of
from tempos.cli.topics import _group

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "config" / "docs" / "pages").rglob("*.md"), *ROOT.glob("*.md")])
#: Where the shell takes over, and where an example's remark begins.
_ENDS = re.compile(r"\s2?[|<>;&]|  +|\s#")
_parser = cache(parser_of)


def _judged(command: str) -> str:
    """What is wrong with a line; "" if nothing is, or if it is none to be typed as it stands."""
    words = shlex.split(_ENDS.split(command)[0])
    if "..." in command or "TOOL" in words:
        return ""
    try:
        _parser(words[1]).parse_args(words[1:])
    except SystemExit as ending:
        return command if ending.code else ""
    return ""


def _helps(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield parser.epilog or ""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in dict.fromkeys(action.choices.values()):
                yield from _helps(each)


def test_commands_of_the_manual_are_taken() -> None:
    text = "\n".join(page.read_text() for page in PAGES).replace("\\\n", " ")
    shown = re.findall(r"^\$ (?:sudo )?(?:\.venv/bin/)?(tempos .*)", text, re.MULTILINE)
    assert len(shown) > 50
    assert not list(filter(None, map(_judged, shown)))


def test_examples_of_the_helps_are_taken() -> None:
    (commands,) = _parser("")._subparsers._group_actions  # type: ignore[union-attr]
    for command in commands.choices:  # type: ignore[union-attr]
        (action,) = _parser(command)._subparsers._group_actions  # type: ignore[union-attr]
        epilogs = "\n".join(_helps(action.choices[command]))  # type: ignore[call-overload,index]
        assert not list(filter(None, map(_judged, re.findall(r"^  (tempos .*)", epilogs, re.MULTILINE))))


def test_options_of_a_group_are_numbers_where_a_file_has_numbers() -> None:
    told = _group(
        "name=flows,from=10.1.0.0/16,sources=10.2.7.9,every=10,down_after=0.5,probe_port=22,source=keep"
    )
    assert told == {
        "name": "flows", "sources": ["10.1.0.0/16", "10.2.7.9"], "every": 10, "down_after": 0.5,
        "probe_port": 22, "source": "keep",
    }  # fmt: skip
    assert _group("name=7,every=\u0663,down_after=soon") == {
        "name": "7",
        "every": "\u0663",
        "down_after": "soon",
    }
