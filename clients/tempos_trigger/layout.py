"""A trigger's document: its tables of keys, and every fault of one at once.

The same document comes as JSON over the API and as TOML in a file. What a kind of endpoint may hold, the kind
says (:mod:`.kind`); which kinds there are, the entry points.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tempos import ConfigError, _abi
from tempos.auth import Key as AuthKey
from tempos.names import FILTER_RULE, filter_fault, is_filter
from tempos_daemon import kinds
from tempos_daemon.files import topic_keys
from tempos_daemon.schema import Faults, Key, Keys, Kind, NotAllowed, Table, near, read_table, show
from tempos_trigger import registry
from tempos_trigger.model import BrokerAt, Deployment, EndpointSpec

MAX_REVISION = 64
MAX_ENDPOINTS = 4096
#: Signals that wait, and seconds that they do, at most and by default.
MAX_BUFFER, BUFFER, MAX_AGE = 1_000_000, 1000, 5.0


def _revision(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_REVISION or not value.isprintable():
        raise NotAllowed
    return value


def _name(value: object) -> str:
    name: str = kinds.name().parse(value)
    if "/" in name:
        raise NotAllowed("which has a slash in it")
    return name


NAME = Kind(f"{kinds.name().allowed}, no slash", _name)

BROKER: Keys = {
    "address": Key(kinds.UNICAST, "127.0.0.1"),
    "data_port": Key(kinds.PORT, _abi.DATA_PORT),
    "control_port": Key(kinds.PORT, _abi.CONTROL_PORT),
    "client": Key(kinds.KEY_ID, None),
    "key": Key(kinds.SECRET, None),
    "keys_file": Key(kinds.FILE, ""),
}
#: What the table of an endpoint may hold beside ``kind``, which says what else.
ENDPOINT: Keys = {
    "name": Key(NAME),
    "topic": Key(Kind(FILTER_RULE, kinds.without(filter_fault))),
    "buffer": Key(kinds.whole(1, MAX_BUFFER), BUFFER),
    "max_age": Key(kinds.seconds(0, 3600), MAX_AGE),
}
#: What a document holds beside its endpoints.
DOCUMENT: Keys = {
    "revision": Key(Kind(f"text of at most {MAX_REVISION} printable characters", _revision), ""),
    "broker": Key(BROKER, {}),
}


def deployment(document: object, faults: Faults) -> Deployment | None:
    """The deployment that a document holds; None, with every fault in ``faults``, if there is any."""
    before = len(faults.problems)
    if not isinstance(document, dict):
        faults.refuse("the document", document, f"a table with the keys {', '.join(DOCUMENT)}, endpoint")
        return None
    top = read_table(
        {key: value for key, value in document.items() if key != "endpoint"}, "", DOCUMENT, faults
    )
    broker = _broker(top.get("broker"), faults)
    endpoints = _endpoints(document.get("endpoint", []), faults)
    if len(faults.problems) > before or broker is None:
        return None
    revision = top.get("revision") or digest(document)
    return Deployment(revision, broker, endpoints, {**document, "revision": revision})


def parse(document: object, name: str) -> Deployment:
    """The deployment in a document called ``name``; raises :class:`tempos.ConfigError` with every fault."""
    faults = Faults(name)
    found = deployment(document, faults)
    if found is None:
        raise ConfigError(faults.problems)
    return found


def digest(document: Mapping[str, Any]) -> str:
    """What stands for a document that brings no revision."""
    text = json.dumps(document, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _broker(table: Table | None, faults: Faults) -> BrokerAt | None:
    if table is None:
        return None
    before = len(faults.problems)
    client, key = table.get("client"), table.get("key")
    if (client is None) != (key is None) and {"client", "key"} <= table.values.keys():
        there, missing = ("client", "key") if key is None else ("key", "client")
        faults.add(table.at(missing), f"is missing beside {there}; allowed: both of them, or neither")
    if table.get("data_port") is not None and table.get("data_port") == table.get("control_port"):
        faults.refuse(table.at("control_port"), table.get("control_port"), "another port than data_port")
    keys = topic_keys(table, faults)
    if len(faults.problems) > before or not BROKER.keys() <= table.values.keys():
        return None
    auth = None if client is None else AuthKey(client, key)
    return BrokerAt(table.get("address"), table.get("data_port"), table.get("control_port"), auth, keys)


def _endpoints(value: object, faults: Faults) -> tuple[EndpointSpec, ...]:
    if not isinstance(value, list):
        faults.refuse("endpoint", value, "a list of tables, written [[endpoint]]")
        return ()
    if len(value) > MAX_ENDPOINTS:
        faults.add("endpoint", f"has {len(value)} entries; allowed: at most {MAX_ENDPOINTS}")
        return ()
    names: dict[str, str] = {}
    claimed: dict[str, str] = {}
    shared: dict[str, tuple[Any, str]] = {}
    found = []
    for index, item in enumerate(value):
        path = f"endpoint[{index}]"
        spec = _endpoint(item, path, names, faults)
        if spec is None:
            continue
        kind = registry.kind(spec.kind)
        shares = getattr(kind, "shares", None)
        for what, how in shares(spec).items() if shares is not None else ():
            if (first := shared.setdefault(what, (how, path)))[0] != how:
                faults.add(path, f"wants another {what} than {first[1]}; allowed: the same")
        for claim in kind.claims(spec):
            if claim in claimed:
                faults.add(path, f"wants {claim}, which is of {claimed[claim]}; allowed: each once")
            claimed.setdefault(claim, path)
        found.append(spec)
    return tuple(found)


def _endpoint(item: object, path: str, names: dict[str, str], faults: Faults) -> EndpointSpec | None:
    if not isinstance(item, dict):
        faults.refuse(path, item, f"a table with the keys kind, {', '.join(ENDPOINT)} and those of its kind")
        return None
    before = len(faults.problems)
    name = item.get("name")
    if isinstance(name, str):
        if name in names:
            faults.refuse(f"{path}.name", name, "each once", f"as {names[name]}.name is")
        names.setdefault(name, path)
    word = item.get("kind")
    known = registry.names()
    if "kind" not in item:
        faults.add(f"{path}.kind", f"is missing; allowed: {', '.join(known)}")
        return None
    if not isinstance(word, str) or word not in known:
        why = near(word, known).strip(" ()") if isinstance(word, str) else ""
        faults.refuse(f"{path}.kind", word, ", ".join(known), why)
        return None
    try:
        kind = registry.kind(word)
    except ConfigError as error:
        faults.add(f"{path}.kind", f"is {show(word)}, {error}")
        return None
    rest = {key: value for key, value in item.items() if key != "kind"}
    table = read_table(rest, path, {**ENDPOINT, **kind.keys}, faults)
    if len(faults.problems) == before:
        kind.check(table, faults)
    if len(faults.problems) > before:
        return None
    values = dict(table.values)
    name, topic = values.pop("name"), values.pop("topic")
    spec = EndpointSpec(name, word, topic, values.pop("buffer"), values.pop("max_age"), _plain(values))
    levels = getattr(kind, "levels", None)
    brings, wants = 0 if levels is None else levels(spec), topic.split("/").count("+")
    if is_filter(topic) and (brings != wants or "#" in topic):
        told = f"{brings} levels that are +, as the path has values, no #" if brings else "a name, no filter"
        faults.refuse(f"{path}.topic", topic, told)
        return None
    return spec


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a table, tables inside as mappings."""

    def one(value: Any) -> Any:
        if isinstance(value, Table):
            return _plain(value.values)
        return tuple(one(each) for each in value) if isinstance(value, tuple) else value

    return {key: one(value) for key, value in values.items()}
