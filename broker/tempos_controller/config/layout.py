"""What the platform's file may hold: its tables of keys.

A trigger's table has the keys of its kind beside ours; those the trigger of its node judges, which knows its
kinds. The same tables judge what the Controller's API is given.
"""

from __future__ import annotations

from typing import Any

from tempos import Overflow, PathPolicy, Quality, names
from tempos._abi import MAX_LISTEN, MAX_SOURCES, PRIORITIES
from tempos_controller.config.model import LOCAL, BrokerPlace, ControllerPlace, Node
from tempos_daemon import kinds
from tempos_daemon.schema import REQUIRED, Key, Keys, Kind, NotAllowed, near, show

#: What a function's code may take.
MAX_CODE = 64 * 1024 * 1024
#: Names that stand in key paths, addresses and groups unquoted.
NAME = kinds.matching(
    r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}",
    '1 to 48 letters, digits, "_", "." and "-", the first a letter or digit',
)
_MAX_ENTRIES = 4096
_CONTROLLER = ControllerPlace()
_BROKER = BrokerPlace()
_NODE = Node(LOCAL)


def _code(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or set(value) != {"sha256", "name"}:
        raise NotAllowed
    digest, name = value["sha256"], value["name"]
    if not isinstance(digest, str) or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise NotAllowed("whose sha256 is not 64 hex digits in lower case")
    if not isinstance(name, str) or not 0 < len(name) <= 255 or not name.isprintable() or "/" in name:
        raise NotAllowed("whose name is not that of a file, without a folder")
    return {"sha256": digest, "name": name}


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise NotAllowed
    for name, text in value.items():
        if not isinstance(text, str) or "\0" in text or not name or "=" in name or "\0" in name:
            raise NotAllowed(f"whose {name!r} is no text for an environment")
    return dict(value)


def _plain(value: object) -> Any:
    """What JSON and TOML both have."""
    if isinstance(value, dict) and all(isinstance(each, str) for each in value):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (str, bool, int)) or (isinstance(value, float) and value - value == 0):
        return value
    raise NotAllowed("which JSON does not have")


def _grants(value: object) -> Any:
    if not isinstance(value, (dict, list)):
        raise NotAllowed
    return _plain(value)


def _topic_or_none(value: object) -> str:
    return kinds.without(names.name_fault, beside=("",))(value)


def _names(value: object) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or len(listed) > _MAX_ENTRIES:
        raise NotAllowed
    found = tuple(NAME.parse(each) for each in listed)
    if len(set(found)) != len(found):
        raise NotAllowed("which names one twice")
    return found


def _arguments(value: object) -> tuple[str, ...]:
    # The same one may well come twice.
    if not isinstance(value, (list, tuple)) or len(value) > _MAX_ENTRIES:
        raise NotAllowed
    for each in value:
        if not isinstance(each, str) or "\0" in each:
            raise NotAllowed(f"which has {show(each)} in it")
    return tuple(value)


def _mode(value: object) -> str:
    if value not in MODES:
        raise NotAllowed(near(value, MODES).strip(" ()") if isinstance(value, str) else "")
    return str(value)


MODES = ("python", "dlf", "wasm", "spawn")
CODE = Kind(
    'code that was uploaded, {"sha256": its 64 hex digits, "name": of its file}',
    _code,
    schema={"type": "object"},
)
TEXTS = Kind("a table of names and texts", _texts, schema={"type": "object"})
PLAIN = Kind("any value that JSON has", _plain, schema={})
GRANTS = Kind("a table or list of what the function may reach", _grants, schema={})
TEXT = kinds.matching(r"[^\0]{1,4096}", "text of 1 to 4096 characters")
ENTRY = kinds.matching(r"[^\0\s]{0,255}", 'the name of an entry such as "module:function", or ""')
TOPIC = kinds.TOPIC_NAME
TOPIC_OR_NONE = Kind(f'{names.NAME_RULE}; "" for none', _topic_or_none)
FILTER = Kind(names.FILTER_RULE, kinds.without(names.filter_fault))
GROUP = kinds.name()
ARGUMENTS = Kind("a list of texts", _arguments, schema={"type": "array", "items": {"type": "string"}})
TRIGGERS = Kind("the name of a trigger, or a list of such names", _names, schema={})
NODES = Kind("the name of a node, or a list of such names", _names, schema={})
BYTES = kinds.whole(1, 2**40, note=" (bytes)")

CONTROLLER: Keys = {
    "name": Key(kinds.BROKER_NAME, _CONTROLLER.name),
    "api": Key(kinds.API, (_CONTROLLER.host, _CONTROLLER.port)),
    "api_token": Key(kinds.TOKEN, ""),
    "api_token_file": Key(kinds.FILE, ""),
    "api_expose": Key(kinds.FLAG, False),
    "state": Key(kinds.FILE, ""),
}
BROKER: Keys = {
    "config": Key(kinds.FILE, ""),
    "address": Key(kinds.UNICAST, None),
    "listen": Key(kinds.LISTEN, None, many=True, least=1, most=MAX_LISTEN),
    "data_port": Key(kinds.PORT, None),
    "control_port": Key(kinds.PORT, None),
    "api": Key(kinds.API, None),
    "api_token": Key(kinds.TOKEN, ""),
    "api_token_file": Key(kinds.FILE, ""),
    "name": Key(kinds.BROKER_NAME, None),
    "fastpath": Key(kinds.choice("auto", "native", "generic", "off"), None),
    "interfaces": Key(kinds.INTERFACE, None, many=True),
    "client": Key(kinds.KEY_ID, None),
    "key": Key(kinds.SECRET, None),
    "keys_file": Key(kinds.FILE, ""),
}
NODE: Keys = {
    "name": Key(NAME),
    "start": Key(kinds.FLAG, _NODE.start),
    "invoker": Key(kinds.API, _NODE.invoker),
    "trigger": Key(kinds.API, _NODE.trigger),
    "invoker_token_file": Key(kinds.FILE, ""),
    "trigger_token_file": Key(kinds.FILE, ""),
    "broker": Key(kinds.UNICAST, None),
    "class": Key(kinds.member_of(Quality), None),
    "priority": Key(kinds.whole(0, 99, ", 0 for ordinary scheduling"), _NODE.priority),
}
#: Left out, an option is the invoker's default.
FUNCTION: Keys = {
    "name": Key(NAME),
    "mode": Key(Kind(" or ".join(f'"{word}"' for word in MODES), _mode, schema={"enum": list(MODES)})),
    "code": Key(CODE, None),
    "entry": Key(ENTRY, None),
    "args": Key(ARGUMENTS, None),
    "env": Key(TEXTS, None),
    "cwd": Key(TEXT, None),
    "user": Key(kinds.USER, None),
    "timeout": Key(kinds.seconds(0.001, 86_400), None),
    "concurrency": Key(kinds.whole(1, 1024), None),
    "load": Key(kinds.choice("keep", "call"), None),
    "memory": Key(BYTES, None),
    "output": Key(BYTES, None),
    "ahead": Key(kinds.whole(0, 1024), None),
    "processes": Key(kinds.whole(0, 2**22), None),
    "grants": Key(GRANTS, None),
    "warm": Key(PLAIN, None),
}
TRIGGER: Keys = {
    "name": Key(NAME),
    "kind": Key(kinds.matching(r"[a-z][a-z0-9_-]{0,31}", 'the kind of a trigger, such as "http" or "udp"')),
    "node": Key(NAME, None),
}
#: What every kind of trigger has beside its own keys.
ENDPOINT: Keys = {
    "buffer": Key(kinds.whole(1, 1_000_000), None),
    "max_age": Key(kinds.seconds(0, 3600), None),
}
#: What a step hands to the invoker as it is.
LIMITS: Keys = {
    "queue": Key(kinds.whole(1, 2**20), None),
    "retries": Key(kinds.whole(0, 1000), None),
    "backoff": Key(kinds.seconds(0, 3600), None),
    "max_age": Key(kinds.seconds(0, 86_400 * 366), None),
}
STEP: Keys = {
    "function": Key(NAME),
    "name": Key(NAME, None),
    "topic": Key(FILTER, None),
    "group": Key(GROUP, None),
    "result": Key(TOPIC_OR_NONE, None),
    "error": Key(TOPIC_OR_NONE, None),
    "node": Key(NODES, None),
    "reply": Key(kinds.FLAG, None),
    **LIMITS,
}
#: What a workflow says of its topic, by the broker's names.
QUALITY: Keys = {
    "class": Key(kinds.member_of(Quality), None),
    "priority": Key(kinds.whole(0, PRIORITIES - 1), None),
    "rate": Key(kinds.whole(0, 100_000_000, note=" (0: no limit)"), None),
    "burst": Key(kinds.whole(0, 1_000_000, note=" (0: what rate gives in 10 ms)"), None),
    "overflow": Key(kinds.member_of(Overflow), None),
    "path": Key(kinds.member_of(PathPolicy), None),
    "sources": Key(kinds.NETWORK, None, many=True, most=MAX_SOURCES),
}
WORKFLOW: Keys = {
    "name": Key(NAME),
    "topic": Key(FILTER),
    "trigger": Key(TRIGGERS, ()),
    **QUALITY,
    "error": Key(TOPIC_OR_NONE, ""),
    "node": Key(NODES, None),
    "step": Key(STEP, REQUIRED, many=True, least=1, most=256),
}
FILE: Keys = {
    "controller": Key(CONTROLLER, {}),
    "broker": Key(BROKER, {}),
    "node": Key(NODE, (), many=True, most=_MAX_ENTRIES),
    "function": Key(FUNCTION, (), many=True, most=_MAX_ENTRIES),
    "trigger": Key(TRIGGER, (), many=True, most=_MAX_ENTRIES),
    "workflow": Key(WORKFLOW, (), many=True, most=_MAX_ENTRIES),
}
