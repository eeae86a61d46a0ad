"""The daemons that the Controller starts: their files, their command lines, the order in which they end."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

from tempos_controller.config.model import BrokerPlace, Node
from tempos_controller.force.store import Store
from tempos_controller.parts.child import Child
from tempos_controller.parts.processes import command

#: Seconds that each daemon has to stop by itself: what they promise, and a little more.
PATIENCE = 6.0
BROKER = "broker"


def broker_child(place: BrokerPlace, store: Store, changed: Callable[[], None]) -> Child | None:
    """The broker, if it is to be started here."""
    if place.running:
        return None
    is_other = False
    if place.config:
        file = Path(place.config)
        folder = file.parent
    else:
        folder = store.part(BROKER)
        file = folder / "broker.toml"
        is_other = store.write_file(file, _broker_file(place, folder))
    argv = command("broker", "-c", str(file))
    return Child(BROKER, argv, folder, store.log(BROKER), changed, anew=is_other)


def _broker_file(place: BrokerPlace, folder: Path) -> str:
    tables: dict[str, dict[str, object]] = {
        "broker": {
            "listen": list(place.listen),
            "data_port": place.data_port,
            "control_port": place.control_port,
            "api": f"{place.api_host}:{place.api_port}",
            "name": place.name,
            **({"api_token": place.token} if place.token else {}),
            **({"api_token_file": place.token_file} if place.token_file else {}),
        },
        "state": {"file": str(folder / "state.db")},
        "fastpath": {"mode": place.fastpath, "interfaces": list(place.interfaces)},
    }
    return _toml(tables)


def daemon_name(sort: str, node: str) -> str:
    """How a node's daemon is called: in the status, and in the Controller's folder."""
    return f"{sort}-{node}"


def node_children(node: Node, store: Store, changed: Callable[[], None]) -> dict[str, Child]:
    """Invoker and trigger of a node, those that are to be started here, by sort."""
    if not node.start:
        return {}
    found = {}
    for sort, (host, port) in (("invoker", node.invoker), ("trigger", node.trigger)):
        if not port:
            continue
        name = daemon_name(sort, node.name)
        folder = store.part(name)
        table: dict[str, object] = {
            "name": node.name[:32].replace(".", "-"),
            "api": f"{host}:{port}",
            "api_token_file": str(store.token(name)),
            "state": str(folder / "state"),
            **({"priority": node.priority} if node.priority else {}),
        }
        file = folder / f"{sort}.toml"
        is_other = store.write_file(file, _toml({sort: table}))
        argv = command(sort, "-c", str(file))
        found[sort] = Child(name, argv, folder, store.log(name), changed, anew=is_other)
    return found


def _toml(tables: dict[str, dict[str, object]]) -> str:
    lines = ["# Written by the Controller."]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join([*lines, ""])


#: How each sort of daemon is told to stop: the broker withdraws its fast path, nobody is to go on with it.
STOP_BY = {"trigger": signal.SIGTERM, "invoker": signal.SIGTERM, BROKER: signal.SIGINT}
