"""Reference of the configuration files.

What is allowed and the defaults are those of the tables that check a file; the words are the comments of the
example file, in which a test finds every option.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manual.text import block, code, table
from tempos_broker.config import layout as broker
from tempos_controller.config import layout as platform
from tempos_daemon.schema import Key, Keys, Kind
from tempos_invoker.deploy import layout as invoker
from tempos_trigger import layout as trigger
from tempos_trigger import registry
from tempos_trigger.settings import TRIGGER

CONFIG = Path(__file__).resolve().parents[2]
_HEAD = re.compile(r"#?(\[\[?)([\w.]+)\]\]?$")
_OPTION = re.compile(r"#?([a-z_]+) *= *(.*)")

FILES: Mapping[str, tuple[str, Keys]] = {
    "broker": ("The broker's file", broker.FILE),
    "trigger": (
        "The trigger's file",
        {"trigger": Key(TRIGGER, {}), **trigger.DOCUMENT, "endpoint": Key(trigger.ENDPOINT, (), many=True)},
    ),
    "invoker": ("The invoker's file", invoker.FILE),
    "platform": ("A platform's file", platform.FILE),
}


@dataclass(slots=True)
class Run:
    """Words of the example, and the options that stand below them."""

    words: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Section:
    """A table of the file. ``kind``: of which kind, where tables of that name differ by it."""

    name: str
    many: bool = False
    kind: str = ""
    runs: list[Run] = field(default_factory=list)

    @property
    def title(self) -> str:
        shown = f"[[{self.name}]]" if self.many else f"[{self.name}]"
        return f'`{shown}`, `kind = "{self.kind}"`' if self.kind else f"`{shown}`"


def page(name: str) -> str:
    """The page of one file, as Markdown."""
    title, keys = FILES[name]
    example = (CONFIG / f"{name}.toml").read_text()
    intro, sections = _read(example)
    out = [f"# {title}", _words(intro), f"The example file is `config/{name}.toml`.\n"]
    told: dict[str, set[str]] = {}
    for section in sections:
        allowed = _keys(keys, section)
        seen = told.setdefault(section.name, set())
        out.append(f"## {section.title}\n" if section.name else "## At the top\n")
        for run in section.runs:
            out.append(_words(run.words))
            rows = [_row(key, allowed[key]) for key in dict.fromkeys(run.options) if key in allowed]
            seen.update(run.options)
            if rows:
                out.append(_options(rows))
    for missing, keys_left in _left(keys, told):
        out.append(f"## Also in `{missing}`\n" if missing else "## Also at the top\n")
        out.append(_options([_row(key, value) for key, value in keys_left.items()]))
    return "\n".join(out)


def _left(keys: Keys, told: Mapping[str, set[str]], path: str = "") -> Iterator[tuple[str, dict[str, Key]]]:
    """What may stand in a file and does not in its example."""
    left = {name: key for name, key in keys.items() if _is_value(key) and name not in told.get(path, set())}
    if left:
        yield path, left
    for name, key in keys.items():
        if not isinstance(key.holds, Kind):
            yield from _left(key.holds, told, f"{path}.{name}" if path else name)


def _keys(keys: Keys, section: Section) -> Keys:
    found = keys
    for part in section.name.split(".") if section.name else ():
        holds = found[part].holds
        assert not isinstance(holds, Kind)
        found = holds
    if section.kind and section.name in ("endpoint", "trigger"):
        own = registry.kind(section.kind).keys
        return {**found, **trigger.ENDPOINT, "kind": platform.TRIGGER["kind"], **own}
    return found


def _is_value(key: Key) -> bool:
    return isinstance(key.holds, Kind)


def _read(example: str) -> tuple[list[str], list[Section]]:
    """The words at the beginning of a file, and its tables in their order, those of one name together."""
    section, run, intro = Section(""), Run(), list[str]()
    sections = [section]
    first = True
    for line in [*example.splitlines(), ""]:
        head, option = _HEAD.match(line), _OPTION.match(line)
        if head:
            section = Section(head[2], head[1] == "[[")
            section.runs.append(Run(run.words))
            sections.append(section)
            run = Run()
        elif option and not line.startswith("# "):
            if option[1] == "kind":
                section.kind = option[2].strip('"')
            run.options.append(option[1])
        elif line.startswith("#"):
            if run.options:
                section.runs.append(run)
                run = Run()
            run.words.append(line[1:])
        elif not line:
            if first:
                intro, first = run.words, False
            elif run.words or run.options:
                section.runs.append(run)
            run = Run()
    return intro, [each for each in sections if any(r.options or r.words for r in each.runs)]


def _words(lines: list[str]) -> str:
    """Comments as paragraphs; what is indented stays as it is."""
    out, plain, fixed = [], list[str](), list[str]()

    def flush() -> None:
        if plain:
            out.append(" ".join(plain).replace("<", "&lt;") + "\n")
        if fixed:
            out.append(block("\n".join(fixed)))
        plain.clear()
        fixed.clear()

    for line in lines:
        if line.startswith("  "):
            if plain:
                flush()
            fixed.append(line[3:])
        else:
            if fixed or not line.strip():
                flush()
            if line.strip():
                plain.append(line.strip())
    flush()
    return "\n".join(out)


def _options(rows: list[list[str]]) -> str:
    return table(("option", "allowed", "default"), rows)


def _row(name: str, key: Key) -> list[str]:
    if not isinstance(key.holds, Kind):
        return [code(name), f"a table with the keys {', '.join(key.holds)}", ""]
    allowed = f"a list, each {key.holds.allowed}" if key.many else key.holds.allowed
    if key.required:
        return [code(name), allowed, "must be there"]
    return [code(name), allowed, code(_shown(key.default))]


def _shown(value: Any) -> str:
    """A default as a file would have it; nothing for what is left out."""
    if value is None or value == b"":
        return ""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, bool):
        return str(value).lower()
    if (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[1], int)
        and isinstance(value[0], str)
    ):
        return f'"{value[0]}:{value[1]}"'
    if isinstance(value, tuple):
        return f"[{', '.join(_shown(each) for each in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
