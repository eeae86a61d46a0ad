"""Man pages: tempos(1), one for each command, tempos-broker.toml(5) and its like; by roff's man macros."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from manual import commands, configuration
from manual.commands import Command
from tempos import __version__

_FILES = (
    ("/etc/tempos/broker.toml", "what the service's broker is run with; tempos-broker.toml(5)"),
    ("/run/tempos/NAME", "state, counters and lock of a broker"),
    ("/sys/fs/bpf/tempos", "what the fast path keeps in the kernel"),
)
_ENVIRONMENT = (
    ("TEMPOS_BROKER", "the broker to ask where -b does not say: HOST, HOST:PORT or HOST:PORT:DATA_PORT"),
    ("TEMPOS_API", "the API to ask where --api does not say"),
    ("TEMPOS_TOKEN", "the API's token"),
    ("TEMPOS_AUTH", "the file of the key that requests are signed with"),
)


def write(folder: Path) -> list[Path]:
    """All pages, below ``man1`` and ``man5`` of a folder."""
    top = commands.tempos()
    pages = {f"man1/{_name(each)}.1": "\n".join(_command(each, top)) for each in (top, *top.children)}
    for name in configuration.FILES:
        pages[f"man5/tempos-{name}.toml.5"] = "\n".join(_configuration(name))
    for path, text in pages.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text + "\n")
    return [folder / path for path in pages]


def main(folder: str) -> None:
    """Write all pages anew."""
    shutil.rmtree(folder, ignore_errors=True)
    write(Path(folder))


def _name(command: Command) -> str:
    return command.words.replace(" ", "-")


def _head(name: str, section: int, summary: str) -> Iterator[str]:
    yield f'.TH "{name.upper()}" "{section}" "" "tempos {__version__}" "tempos"'
    yield from (".SH NAME", f"{_escaped(name)} \\- {_escaped(summary.rstrip('.'))}")


def _command(command: Command, top: Command) -> Iterator[str]:
    summary = (
        "publish and subscribe through a broker inside the Linux kernel"
        if command is top
        else command.summary
    )
    yield from _head(_name(command), 1, summary)
    yield ".SH SYNOPSIS"
    yield from _fixed(command.usage)
    yield ".SH DESCRIPTION"
    yield _escaped(command.description or command.summary)
    yield from _groups(command, ".SH")
    for each in command.all():
        if each is command or command is top:
            continue
        yield f'.SH "{_escaped(each.words.upper())}"'
        yield _escaped(each.description or each.summary)
        yield from _fixed(each.usage)
        yield from _groups(each, ".SS")
        yield from _epilog(each)
    yield from _epilog(command)
    if command is top:
        for title, entries in (("ENVIRONMENT", _ENVIRONMENT), ("FILES", _FILES)):
            yield f".SH {title}"
            yield from _terms(entries)
    others = [f"{_name(each)}(1)" for each in top.children] if command is top else ["tempos(1)"]
    if command.words == "tempos broker":
        others.append("tempos-broker.toml(5)")
    yield from (".SH SEE ALSO", _escaped(", ".join(others)))


def _groups(command: Command, macro: str) -> Iterator[str]:
    for title, entries in command.groups:
        if entries:
            yield f'{macro} "{_escaped(title.upper())}"'
            yield from _terms(entries)


def _terms(entries: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for term, meaning in entries:
        yield from (".TP", f"\\fB{_escaped(term)}\\fR", _escaped(meaning) or "\\&")


def _epilog(command: Command) -> Iterator[str]:
    if command.epilog:
        yield ".PP"
        yield from _fixed(command.epilog)


def _fixed(text: str) -> Iterator[str]:
    yield from (".nf", *(_escaped(line) for line in text.rstrip().splitlines()), ".fi")


def _configuration(name: str) -> Iterator[str]:
    """The site's page of a file, from Markdown to man macros."""
    yield from _head(f"tempos-{name}.toml", 5, configuration.FILES[name][0].lower() + " (TOML)")
    yield ".SH DESCRIPTION"
    inside = False
    for line in configuration.page(name).splitlines()[1:]:
        if line.startswith("```"):
            inside = not inside
            yield ".nf" if inside else ".fi"
        elif inside:
            yield _escaped(line)
        elif line.startswith("## "):
            yield f'.SH "{_escaped(_plain(line[3:]))}"'
        elif line.startswith("| `"):
            option, allowed, default = (_plain(each.strip()) for each in re.split(r"(?<!\\)\|", line)[1:4])
            told = f"{allowed}{f' (default: {default})' if default else ''}"
            yield from (".TP", f"\\fB{_escaped(option)}\\fR", _escaped(told))
        elif line.startswith("|"):
            continue
        elif line.strip():
            yield from (".PP", _escaped(_plain(line)))


def _plain(text: str) -> str:
    return text.replace("`", "").replace("&lt;", "<").replace("\\|", "|")


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return "\\&" + text if text.startswith((".", "'")) else text
