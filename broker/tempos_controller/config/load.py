"""Reads a platform: from its file, with the code beside it, or from documents that the API was given.

Every fault is told at once. Rules: of a file only :class:`tempos.ConfigError` comes out; what other files it
names (code, the broker's own file) is read here, so that what comes out needs no file any more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempos import ConfigError
from tempos_controller.config.build import build
from tempos_controller.config.drafts import drafts
from tempos_controller.config.layout import FILE, MAX_CODE, TRIGGER
from tempos_controller.config.model import Platform
from tempos_controller.config.rules import check
from tempos_daemon import kinds, toml
from tempos_daemon.files import must_be_plain
from tempos_daemon.schema import Faults, Key, Keys, is_text, join, read_table, show

#: What a platform consists of beside the places of its daemons.
KINDS = ("node", "function", "trigger", "workflow")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A platform, the documents that it was made of, and the bytes of its functions' code by their hash.

    ``own``: what the broker's own file says of its places, if there is one.
    """

    platform: Platform
    documents: Mapping[str, Any]
    own: Mapping[str, Any]
    code: Mapping[str, bytes]


def load(path: Path) -> Loaded:
    """The platform that a file describes. Raises :class:`ConfigError` with every fault."""
    name = str(path)
    return parse(toml.read_text(path), name, path.parent)


def parse(text: str, name: str, folder: Path) -> Loaded:
    """The same of a text; the files that it names are looked for in ``folder``."""
    document = toml.document(text, name)
    faults = Faults(name)
    code = read_code(document, folder, faults)
    own = _read_broker(document, folder, faults)
    return Loaded(_read(document, own, faults), document, own, code)


def read(documents: Mapping[str, Any], name: str, own: Mapping[str, Any] | None = None) -> Platform:
    """The platform that documents describe, ``name`` standing for them in the faults; null is left out."""
    return _read(_without_null(documents), own or {}, Faults(name))


def _read(document: Mapping[str, Any], own: Mapping[str, Any], faults: Faults) -> Platform:
    ours, kinds_own = _split_triggers(document, faults)
    root = read_table(ours, "", FILE, faults)
    for table, options in zip(root.get("trigger") or (), kinds_own, strict=False):
        table.values["options"] = options
    workflows = drafts(root.get("workflow") or ())
    check(root, workflows, faults)
    if faults.problems:
        raise ConfigError(_by_name(faults.problems, document))
    return build(root, workflows, own)


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(each) for key, each in value.items() if each is not None}
    return [_without_null(each) for each in value] if isinstance(value, (list, tuple)) else value


def _split_triggers(
    document: Mapping[str, Any], faults: Faults
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The document with what is ours of its triggers, and what is their kinds'."""
    listed = document.get("trigger")
    if not isinstance(listed, list):
        return dict(document), []
    ours: list[Any] = []
    theirs: list[dict[str, Any]] = []
    for index, each in enumerate(listed):
        if not isinstance(each, dict):
            ours.append(each)
            theirs.append({})
            continue
        ours.append({key: value for key, value in each.items() if key in TRIGGER})
        rest = {key: value for key, value in each.items() if key not in TRIGGER}
        for key in ("topic", "class"):
            if key in rest:
                path = join(f"trigger[{index}]", key)
                faults.add(
                    path, f"is {show(rest.pop(key))}; allowed: in the [[workflow]] that names this trigger"
                )
        theirs.append(
            {
                key: value
                for key, value in rest.items()
                if _is_plain(value, join(f"trigger[{index}]", key), faults)
            }
        )
    return {**document, "trigger": ours}, theirs


def _is_plain(value: Any, path: str, faults: Faults) -> bool:
    """Whether it can be handed on as JSON; TOML has dates, too."""
    before = len(faults.problems)
    if isinstance(value, dict):
        for key, each in value.items():
            _is_plain(each, join(path, key), faults)
        return len(faults.problems) == before
    if isinstance(value, list):
        for index, each in enumerate(value):
            _is_plain(each, f"{path}[{index}]", faults)
        return len(faults.problems) == before
    if isinstance(value, (bool, int)) or (isinstance(value, float) and value - value == 0):
        return True
    if isinstance(value, str) and is_text(value):
        return True
    faults.refuse(path, value, "a text, a number, true or false, a list or a table")
    return False


def _by_name(problems: list[str], document: Mapping[str, Any]) -> list[str]:
    """Faults with names beside the numbers of tables: in a long file nobody counts."""
    names = {}
    for kind in KINDS:
        listed = document.get(kind)
        for index, each in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(each, dict) and isinstance(each.get("name"), str) and each["name"].isprintable():
                names[f"{kind}[{index}]"] = each["name"][:64]
    told = []
    for problem in problems:
        place = problem.partition(": ")[2].partition("]")[0] + "]"
        known = names.get(place)
        told.append(f"{problem} (in {place.partition('[')[0]} {show(known)})" if known else problem)
    return told


# --- other files -------------------------------------------------------------------------------


def read_code(document: dict[str, Any], folder: Path, faults: Faults) -> dict[str, bytes]:
    """Put hashes in the place of paths; the bytes by hash."""
    found: dict[str, bytes] = {}
    listed = document.get("function")
    for index, each in enumerate(listed if isinstance(listed, list) else ()):
        if not isinstance(each, dict) or not isinstance(each.get("code"), str):
            continue
        path = folder / each["code"]
        where = f"function[{index}].code"
        try:
            must_be_plain(path)
            with path.open("rb") as file:
                content = file.read(MAX_CODE + 1)
        except (OSError, ValueError) as error:
            faults.refuse(where, each["code"], "the file of the code, from the folder of this one",
                          f"which cannot be read: {getattr(error, 'strerror', None) or error}")  # fmt: skip
            content = b""
        if len(content) > MAX_CODE:
            faults.refuse(where, each["code"], f"at most {MAX_CODE} bytes of code", "which is larger")
        digest = hashlib.sha256(content).hexdigest()
        found[digest] = content
        each["code"] = {"sha256": digest, "name": path.name[:255]}
    return found


#: What is asked of a file of the broker's own; the rest of it is the broker's to judge.
_ASKED: Keys = {
    "listen": Key(kinds.LISTEN, ("0.0.0.0",), many=True),  # noqa: S104 - the broker's default
    "data_port": Key(kinds.PORT, 9998),
    "control_port": Key(kinds.PORT, 9997),
    "api": Key(kinds.API, ("127.0.0.1", 9996)),
    "api_token": Key(kinds.TOKEN, ""),
    "api_token_file": Key(kinds.FILE, ""),
    "name": Key(kinds.BROKER_NAME, "default"),
}


def _read_broker(document: dict[str, Any], folder: Path, faults: Faults) -> dict[str, Any]:
    """Where the broker of a file of its own will be, as that file says; makes the path to it absolute."""
    broker = document.get("broker")
    if not isinstance(broker, dict) or not isinstance(broker.get("config"), str) or not broker["config"]:
        return {}
    given = broker["config"]
    path = (folder / given).resolve()
    try:
        theirs = toml.document(toml.read_text(path), str(path))
    except ConfigError as error:
        for problem in error.problems:
            faults.add("broker.config", f"is {show(given)}: {problem}")
        return {}
    broker["config"] = str(path)
    own = theirs.get("broker", {})
    asked = {key: value for key, value in own.items() if key in _ASKED} if isinstance(own, dict) else {}
    inner = Faults(str(path))
    table = read_table(asked, "broker", _ASKED, inner)
    faults.problems += inner.problems
    if inner.problems:
        return {}
    if not table.get("api")[1]:
        faults.add("broker.config", f'is {show(given)}, whose broker.api is "off"; allowed: with an API')
    token_file = table.get("api_token_file")
    return {**table.values, "api_token_file": str(path.parent / token_file) if token_file else ""}
