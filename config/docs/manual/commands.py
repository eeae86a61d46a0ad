"""The commands, from their parsers: one reading of them makes both the site's page and the man pages."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass

from manual.text import block, code, table
from tempos.cli.main import parser_of


@dataclass(frozen=True, slots=True)
class Command:
    """One command. ``groups``: a title and what it explains, each a term and its meaning."""

    words: str
    summary: str
    usage: str
    description: str
    groups: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    epilog: str
    children: tuple[Command, ...]

    def all(self) -> Iterator[Command]:
        """The command itself, and all below it."""
        yield self
        for child in self.children:
            yield from child.all()


def tempos() -> Command:
    """The whole tree; each command's own parser is loaded."""
    os.environ["COLUMNS"] = "100"
    top = parser_of("")
    children = []
    for name, summary in _summaries(_branches(top)).items():
        whole = _branches(parser_of(name))
        assert whole is not None
        children.append(_command(whole.choices[name], summary))
    return _command(top, top.description or "", tuple(children))


def page() -> str:
    """Reference of the commands, as Markdown."""
    out = [
        "# Commands\n",
        "The same is told by `tempos COMMAND --help` and, where a package brought them, by `man`.\n",
    ]
    top = tempos()
    out.append(top.epilog.partition("Exit codes")[1] + top.epilog.partition("Exit codes")[2] + "\n")
    for command in top.all():
        if command is top:
            continue
        depth = "#" * min(len(command.words.split()), 4)
        out += [
            f"{depth} {command.words}\n",
            _sentence(command.description or command.summary),
            block(command.usage),
        ]
        for _, entries in command.groups:
            if entries:
                out.append(table(("", ""), [(code(term), meaning) for term, meaning in entries]))
        if command.epilog:
            out.append(block(command.epilog))
    return "\n".join(out)


def _sentence(text: str) -> str:
    text = text.replace("<", "&lt;").strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}\n"


def _branches(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser] | None:
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return found[0] if found else None


def _summaries(action: argparse._SubParsersAction[argparse.ArgumentParser] | None) -> dict[str, str]:
    return {} if action is None else {each.dest: each.help or "" for each in action._choices_actions}


def _command(
    parser: argparse.ArgumentParser, summary: str, children: tuple[Command, ...] | None = None
) -> Command:
    branches = _branches(parser)
    summaries = _summaries(branches)
    if children is None:
        children = tuple(
            _command(branches.choices[name], text) for name, text in summaries.items()
        ) if branches else ()  # fmt: skip
    formatter = argparse.HelpFormatter(parser.prog, width=100)
    groups = tuple(
        (group.title or "", tuple(_entries(group, formatter, summaries))) for group in parser._action_groups
    )
    usage = parser.format_usage().removeprefix("usage: ")
    return Command(
        parser.prog, summary, usage, parser.description or "", groups, parser.epilog or "", children
    )


def _entries(
    group: argparse._ArgumentGroup, formatter: argparse.HelpFormatter, summaries: dict[str, str]
) -> Iterator[tuple[str, str]]:
    for action in group._group_actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from summaries.items()
        elif action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
            yield (
                formatter._format_action_invocation(action),
                formatter._expand_help(action) if action.help else "",
            )
