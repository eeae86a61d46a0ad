"""How a deployment is written, in TOML or JSON: its tables of keys, and the rules that span several keys.

Every fault of a document is told at once, each with the key path, what was found and what is allowed. What
only the machine or the broker can tell (whether a function can be loaded, whether a topic is there) is found
out when a deployment is applied.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tempos import ConfigError, Quality, names
from tempos.auth import Key as AuthKey
from tempos_daemon import kinds, logs, toml
from tempos_daemon.files import must_be_plain, topic_keys
from tempos_daemon.schema import Faults, Key, Keys, Kind, NotAllowed, Table, read_table, show
from tempos_invoker.core.step import Step
from tempos_invoker.deploy.model import BrokerAt, Code, Deployment, Function, Settings
from tempos_invoker.modes import MODES
from tempos_invoker.workers import frames

MAX_FUNCTIONS, MAX_STEPS = 1000, 1000
MAX_WORKERS, MAX_QUEUE, MAX_RETRIES, MAX_AHEAD = 64, 1_000_000, 100, 64
MAX_CODE = 64 * 1024 * 1024
MAX_REVISION, MAX_TEXT, MAX_ENV = 64, 4096, 256
LEAST_SHARE = 0.05

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
_ENTRY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: What an entry of each mode is; None: it has none.
_ENTRIES = {
    "python": (_ENTRY, '"module:function"'),
    "dlf": (None, "none: a library has one entry, tempos_function"),
    "wasm": (re.compile(r"|[ -~]{1,255}"), "the name of an exported function, none for a WASI command"),
    "spawn": (None, "none: a process has args"),
}


def _code(value: object) -> Code | str:
    """A path, or what was uploaded: a table of sha256 and name."""
    if isinstance(value, str) and value:
        return str(kinds.file_path(value))
    if not isinstance(value, dict) or value.keys() != {"sha256", "name"}:
        raise NotAllowed
    sha256, name = value["sha256"], value["name"]
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise NotAllowed("whose sha256 is not 64 hex digits in lower case")
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
        raise NotAllowed("whose name is no plain name of a file")
    return Code(sha256, name)


def _env(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_ENV:
        raise NotAllowed
    for name, text in value.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise NotAllowed(f"in which {name!r} is no name of a variable")
        if not isinstance(text, str) or "\0" in text or len(text) > MAX_TEXT:
            raise NotAllowed(f"in which {name} is no text of at most {MAX_TEXT} characters")
    return value


def _text(longest: int, allowed: str) -> Kind:
    def parse(value: object) -> str:
        if not isinstance(value, str) or len(value) > longest or "\0" in value:
            raise NotAllowed
        return value

    return Kind(allowed, parse)


def _texts(most: int) -> Kind:
    """A list in which texts may come again, as they do on a command line."""

    def parse(value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise NotAllowed
        for each in value:
            if not isinstance(each, str) or len(each) > MAX_TEXT or "\0" in each:
                raise NotAllowed(f"in which {show(each)} is no text of at most {MAX_TEXT} characters")
        return tuple(value)

    return Kind(f"a list of at most {most} texts", parse)


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not LEAST_SHARE <= value <= 1:
        raise NotAllowed
    return float(value)


def _client(value: object) -> str:
    return "" if value == "" else str(kinds.KEY_ID.parse(value))


def _group(value: object) -> str:
    return "" if value == "" else str(kinds.name().parse(value))


_TOPIC = Kind(f'{names.NAME_RULE}, "" for none', kinds.without(names.name_fault, beside=("",)))
_FILTER = Kind("the name of a topic or a filter", kinds.without(names.filter_fault))

BROKER: Keys = {
    "address": Key(kinds.UNICAST, BrokerAt().address),
    "control_port": Key(kinds.PORT, BrokerAt().control_port),
    "data_port": Key(kinds.PORT, BrokerAt().data_port),
    "client": Key(Kind(f'{kinds.KEY_ID.allowed}, "" for none', _client), ""),
    "key": Key(kinds.SECRET, b""),
    "keys_file": Key(kinds.FILE, ""),
}
FUNCTION: Keys = {
    "name": Key(kinds.matching(_NAME, '1 to 64 letters, digits, "_", "-" and "."')),
    "mode": Key(kinds.choice(*MODES)),
    "code": Key(
        Kind("the path of a file, or a table of what was uploaded: sha256 and name", _code), None
    ),
    "entry": Key(_text(256, "text of at most 256 characters"), ""),
    "args": Key(_texts(256), ()),
    "env": Key(Kind(f"a table of at most {MAX_ENV} texts", _env), {}),
    "cwd": Key(kinds.FILE, ""),
    "user": Key(kinds.USER, ""),
    "timeout": Key(kinds.seconds(0.001, 3600), 1.0),
    "concurrency": Key(kinds.whole(1, MAX_WORKERS), 1),
    "load": Key(kinds.choice("keep", "call"), "keep"),
    "memory": Key(kinds.whole(0, 2**40), 0),
    "output": Key(kinds.whole(0, frames.LARGEST_OUTPUT), 0),
    "ahead": Key(kinds.whole(0, MAX_AHEAD), 0),
    "processes": Key(kinds.whole(0, 2**22), 0),
    "grants": Key(_texts(64), ()),
    "warm": Key(_text(16384, "text of at most 16384 characters"), None),
}  # fmt: skip
STEP: Keys = {
    "workflow": Key(kinds.name()),
    "name": Key(kinds.name()),
    "function": Key(kinds.name()),
    "class": Key(kinds.member_of(Quality)),
    "topic": Key(_FILTER),
    "group": Key(Kind(f"{kinds.name().allowed}, none for workflow/name", _group), ""),
    "result": Key(_TOPIC, ""),
    "error": Key(_TOPIC, ""),
    "queue": Key(kinds.whole(1, MAX_QUEUE), 1024),
    "retries": Key(kinds.whole(0, MAX_RETRIES), 0),
    "backoff": Key(kinds.seconds(0, 3600), 0.1),
    "max_age": Key(kinds.seconds(0, 86400 * 365), 0.0),
    "reply": Key(kinds.FLAG, True),
}
DEPLOYMENT: Keys = {
    "revision": Key(_text(MAX_REVISION, f"text of at most {MAX_REVISION} characters"), ""),
    "broker": Key(BROKER, {}),
    "function": Key(FUNCTION, (), many=True, most=MAX_FUNCTIONS),
    "step": Key(STEP, (), many=True, most=MAX_STEPS),
}
_SETTINGS = Settings()
INVOKER: Keys = {
    "name": Key(kinds.BROKER_NAME, _SETTINGS.name),
    "api": Key(kinds.API, _SETTINGS.api),
    "api_token": Key(kinds.TOKEN, ""),
    "api_token_file": Key(kinds.FILE, ""),
    "state": Key(kinds.FILE, ""),
    "log": Key(kinds.choice("", *logs.LEVELS), ""),
    "priority": Key(kinds.whole(0, 99, ", 0 for ordinary scheduling"), _SETTINGS.priority),
    "priority_sq": Key(kinds.whole(0, 99, ", 0 for ordinary scheduling"), _SETTINGS.priority_sq),
    "budget_sq": Key(Kind(f"a share of a core from {LEAST_SHARE} to 1", _share), _SETTINGS.budget_sq),
}
FILE: Keys = {"invoker": Key(INVOKER, {}), **DEPLOYMENT}


def load(path: str | os.PathLike[str]) -> tuple[Settings, Deployment]:
    """Read a file of TOML; raises :class:`ConfigError` with every fault in it."""
    name = os.fspath(path)
    tables = toml.document(toml.read_text(path), name)
    faults = Faults(name)
    root = read_table(tables, "", FILE, faults)
    settings = _settings(root.get("invoker"), faults, fixed=bool(tables.keys() & DEPLOYMENT.keys()))
    deployment = _deployment(root, faults, Path(name).parent)
    if faults.problems:
        raise ConfigError(faults.problems)
    return settings, deployment


def read(document: object) -> Deployment:
    """Check a document that came by the API; raises :class:`ConfigError` with every fault in it."""
    faults = Faults("deployment")
    root = read_table(document, "", DEPLOYMENT, faults)
    deployment = _deployment(root, faults, None)
    if faults.problems:
        raise ConfigError(faults.problems)
    return deployment


def _settings(table: Table, faults: Faults, *, fixed: bool) -> Settings:
    if table.get("api_token") and table.get("api_token_file"):
        faults.add(table.at("api_token_file"), "is beside api_token; allowed: one of the two")
    api = table.get("api")
    # One that is faulty itself is None, and nothing is said of it here.
    has_none = table.get("api_token") == "" and table.get("api_token_file") == ""
    if api and api[1] and not kinds.is_loopback(api[0]) and has_none:
        faults.add(
            table.at("api"),
            f"is {api[0]}:{api[1]}, which others can reach, without a token, and may run any code then: "
            "set api_token or api_token_file, or an address of loopback",
        )
    known = {key: value for key, value in table.values.items() if value is not None}
    return Settings(**known, fixed=fixed)


def _deployment(root: Table, faults: Faults, folder: Path | None) -> Deployment:
    broker = _broker(root.get("broker"), faults)
    functions = [_function(each, faults, folder) for each in root.get("function") or () if each is not None]
    steps = [_step(each, faults) for each in root.get("step") or () if each is not None]
    _each_once(((each, (each.get("name"),)) for each in root.get("function") or () if each), "name", faults)
    _each_once(
        ((each, (each.get("workflow"), each.get("name"))) for each in root.get("step") or () if each),
        "name",
        faults,
    )
    known = {each.get("name") for each in root.get("function") or () if each}
    for table in (root.get("step") or ()) if root.get("function") is not None else ():
        if table and table.get("function") is not None and table.get("function") not in known:
            there = ", ".join(sorted(filter(None, known))) or "none, for there are no functions"
            faults.refuse(table.at("function"), table.get("function"), there, "which is no function here")
    return Deployment(
        root.get("revision") or "",
        broker or BrokerAt(),
        tuple(each for each in functions if each is not None),
        tuple(each for each in steps if each is not None),
    )


def _broker(table: Table | None, faults: Faults) -> BrokerAt | None:
    if table is None:
        return None
    client, key = table.get("client"), table.get("key")
    if bool(client) != bool(key) and client is not None and key is not None:
        lacking = "key" if client else "client"
        faults.add(table.at(lacking), "is missing; client and key go together")
        return None
    keys, path = topic_keys(table, faults), table.get("keys_file")
    if None in (table.get("address"), table.get("control_port"), table.get("data_port"), client, key, path):
        return None
    auth = AuthKey(client, key) if client else None
    at = table.get("address"), table.get("control_port"), table.get("data_port")
    return BrokerAt(*at, auth, keys, path) if keys is not None or not path else None


def _function(table: Table, faults: Faults, folder: Path | None) -> Function | None:
    before = len(faults.problems)
    mode, code, entry = table.get("mode"), table.get("code"), table.get("entry")
    if mode is not None and entry is not None:
        pattern, allowed = _ENTRIES[mode]
        if (pattern is None and entry) or (pattern is not None and not pattern.fullmatch(entry)):
            faults.refuse(table.at("entry"), entry, f"for mode {mode} {allowed}")
    if mode in ("dlf", "wasm") and table.values.get("code", "") is None:
        faults.add(table.at("code"), f"is missing; a function of mode {mode} has a file")
    if mode == "spawn" and table.values.get("code", "") is None and not table.get("args"):
        faults.add(table.at("args"), "is missing; a function of mode spawn has code, args, or both")
    for key in ("ahead", "processes"):
        if mode is not None and mode != "spawn" and table.get(key):
            faults.refuse(table.at(key), table.get(key), f"0 for mode {mode}")
    if isinstance(code, str):
        if folder is None:
            faults.refuse(table.at("code"), code, "what was uploaded: a table of sha256 and name")
        else:
            code = _file(table, folder / code, faults)
    if len(faults.problems) > before or any(table.get(key) is None for key in ("name", "mode")):
        return None
    known = {key: value for key, value in table.values.items() if value is not None}
    return Function(**{**known, "code": code})


def _file(table: Table, path: Path, faults: Faults) -> Code | None:
    """The code that lies there now."""
    try:
        must_be_plain(path)
        if path.stat().st_size > MAX_CODE:
            faults.add(table.at("code"), f"names {path}, which has more than {MAX_CODE} bytes")
            return None
        content = path.read_bytes()
    except OSError as error:
        faults.add(table.at("code"), f"names {path}, which cannot be read: {error.strerror}")
        return None
    if not _FILE_NAME.fullmatch(path.name):
        faults.refuse(table.at("code"), path.name, "a plain name of a file")
        return None
    return Code(
        hashlib.sha256(content).hexdigest(), path.name, str(path.absolute()), str(path.absolute().parent)
    )


def _step(table: Table, faults: Faults) -> Step | None:
    topic = table.get("topic")
    for key in ("result", "error"):
        if topic and table.get(key) == topic:
            faults.refuse(
                table.at(key), topic, "another topic than the step's own, or none", "which feeds itself"
            )
    if any(table.get(key) is None for key in STEP):
        return None
    known: dict[str, Any] = dict(table.values)
    known["quality"] = known.pop("class")
    known["group"] = known["group"] or f"{known['workflow']}/{known['name']}"
    if kinds_fault := _group_fault(known["group"]):
        faults.add(table.at("group"), kinds_fault)
        return None
    return Step(**known)


def _group_fault(group: str) -> str:
    if len(group) <= kinds.MAX_NAME:
        return ""
    return f"would be {group!r}, of {len(group)} characters; allowed: {kinds.MAX_NAME}: set one"


def _each_once(tables: Any, key: str, faults: Faults, allowed: str = "each once") -> None:
    """No two tables with the same of these values."""
    first: dict[tuple[Any, ...], Table] = {}
    for table, values in tables:
        if None in values:
            continue
        other = first.setdefault(values, table)
        if other is not table:
            shown = "/".join(str(value) for value in values)
            faults.refuse(table.at(key), shown, allowed, f"as {other.path} has")


def as_document(deployment: Deployment) -> Mapping[str, Any]:
    """A deployment as JSON has it, with every default; secrets are left out."""
    broker = deployment.broker
    return {
        "revision": deployment.revision,
        "broker": {
            "address": broker.address,
            "control_port": broker.control_port,
            "data_port": broker.data_port,
            "client": broker.auth.id if broker.auth else "",
            "keys_file": broker.keys_file,
        },
        "function": [_function_document(each) for each in deployment.functions],
        "step": [_step_document(each) for each in deployment.steps],
    }


def _function_document(function: Function) -> dict[str, Any]:
    told = {key: getattr(function, key) for key in FUNCTION if key not in ("code", "warm")}
    told["args"], told["grants"], told["env"] = list(function.args), list(function.grants), dict(function.env)
    if function.code is not None:
        told["code"] = {"sha256": function.code.sha256, "name": function.code.name}
    if function.warm is not None:
        told["warm"] = function.warm
    return told


def _step_document(step: Step) -> dict[str, Any]:
    told = {key: getattr(step, key) for key in STEP if key != "class"}
    return {**told, "class": step.quality.value}
