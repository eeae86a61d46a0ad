"""Reference of the client library: signatures and docstrings of what `tempos` exports."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import tempos
from manual.text import block


def page() -> str:
    """Everything that `tempos` exports, as Markdown."""
    out = [
        "# Python library\n",
        "`from tempos import ...`; for code without asyncio `from tempos.blocking import ...`.\n",
    ]
    for name in tempos.__all__:
        value = getattr(tempos, name)
        if inspect.isclass(value):
            out += [f"## {name}\n", *_described(name, value)]
            for member, each in _members(value):
                out += [f"### {name}.{member}\n", *_described(f"{name}.{member}", each)]
    return "\n".join(out)


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(kind).items():
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            yield name, value


def _described(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, property) and not (inspect.isclass(value) and issubclass(value, Exception)):
        try:
            lead = "async def " if inspect.iscoroutinefunction(value) else ""
            yield block(f"{lead}{name.split('.')[-1]}{inspect.signature(value)}", "python")
        except (TypeError, ValueError):
            pass
    text = inspect.getdoc(value) or ""
    yield text.replace("``", "`").replace(":class:", "").replace(":meth:", "").replace(":func:", "") + "\n"
