"""The file of a trigger: what the daemon is like, and perhaps the deployment itself.

[trigger]            name, API, state, log
[broker] [[endpoint]] the deployment; where neither is there, it is given over the API
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempos import ConfigError
from tempos_daemon import kinds, logs, toml
from tempos_daemon.schema import Faults, Key, Keys, read_table
from tempos_daemon.token import read_token
from tempos_trigger import layout
from tempos_trigger.model import Deployment

API = ("127.0.0.1", 9994)
TRIGGER: Keys = {
    "name": Key(kinds.BROKER_NAME, "default"),
    "api": Key(kinds.API, API),
    "api_token": Key(kinds.TOKEN, ""),
    "api_token_file": Key(kinds.FILE, ""),
    "state": Key(kinds.FILE, ""),
    "log": Key(kinds.choice(*logs.LEVELS), "info"),
    "priority": Key(kinds.whole(0, 99, ", 0 for ordinary scheduling"), 0),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the daemon is like. ``state``: its folder; ``deployment``: that of the file, if it has one.

    ``priority``: of SCHED_FIFO, 0 for ordinary scheduling.
    """

    name: str = "default"
    api: tuple[str, int] = API
    api_token: str = ""
    state: Path | None = None
    log: str = "info"
    priority: int = 0
    deployment: Deployment | None = None


def load(path: str | os.PathLike[str]) -> Settings:
    """Read and check a file as a whole; raises :class:`tempos.ConfigError` with every fault."""
    name = os.fspath(path)
    return check(toml.document(toml.read_text(path), name), name)


def check(document: dict[str, Any], name: str) -> Settings:
    """The settings in a document called ``name``; raises :class:`tempos.ConfigError` with every fault."""
    faults = Faults(name)
    rest = {key: value for key, value in document.items() if key != "trigger"}
    table = read_table(document.get("trigger", {}), "trigger", TRIGGER, faults)
    token, token_file = table.get("api_token"), table.get("api_token_file")
    if token and token_file:
        faults.add(table.at("api_token_file"), "is there beside api_token; allowed: one of them")
    elif token_file:
        try:
            token = read_token(token_file, f"{name}: {table.at('api_token_file')}")
        except ConfigError as error:
            faults.problems.extend(error.problems)
    host, port = table.get("api") or API
    # One that is faulty itself is None, and nothing is said of it here.
    if port and not kinds.is_loopback(host) and token == "" and token_file == "":
        faults.refuse(table.at("api"), f"{host}:{port}", "a loopback address, or an api_token besides")
    deployment = layout.deployment(rest, faults) if rest else None
    if faults.problems:
        raise ConfigError(faults.problems)
    state = table.get("state")
    return Settings(
        table.get("name"), table.get("api"), token or "", Path(state) if state else None,
        table.get("log"), table.get("priority"), deployment,
    )  # fmt: skip
