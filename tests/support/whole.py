"""Who keeps files that must be whole or not there, each by name; as a program, one that is killed on its way.

python -m support.whole NAME FOLDER    has another text on the disk, and dies before it is in its place
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tempos._files import write_whole


def _command(folder: Path, text: str) -> Path:
    write_whole(folder / "out.toml", text.encode())
    return folder / "out.toml"


def _trigger(folder: Path, text: str) -> Path:
    from tempos_trigger.store import DEPLOYMENT, Store

    Store(folder).write(DEPLOYMENT, {"text": text})
    return folder / DEPLOYMENT


def _invoker(folder: Path, text: str) -> Path:
    from tempos_invoker.deploy.store import Store

    store = Store(folder)
    try:
        store.save({"text": text})
    finally:
        store.close()
    return folder / "deployment.json"


def _ports(folder: Path, text: str) -> Path:
    from tempos_invoker.deploy.model import BrokerAt
    from tempos_invoker.deploy.ports import Ports

    Ports(folder / "ports.json").keep(BrokerAt(), text, "group", 0, 4000)
    return folder / "ports.json"


def _modules(folder: Path, text: str) -> Path:
    from tempos_invoker.worker.wasm_cache import Cache

    Cache(str(folder)).put("key", text.encode())
    return folder / "key"


def _controller(folder: Path, text: str) -> Path:
    from tempos_controller.force.store import Store

    store = Store(folder)
    try:
        store.write_file(folder / "parts" / "broker.toml", text)
    finally:
        store.close()
    return folder / "parts" / "broker.toml"


def _position(folder: Path, text: str) -> Path:
    from tempos.exporting.course import Place
    from tempos.exporting.jetstream import StreamOutlet

    StreamOutlet("nats://localhost/events", "topic", folder / "position")._write(Place(text, 1))
    return folder / "position"


#: Each has a text in a file of the folder, and gives that file.
WRITERS: dict[str, Callable[[Path, str], Path]] = {
    "a command": _command,
    "a trigger": _trigger,
    "an invoker": _invoker,
    "ports of members": _ports,
    "compiled modules": _modules,
    "the Controller": _controller,
    "a position of an export": _position,
}


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    os.fsync = _die
    WRITERS[sys.argv[1]](Path(sys.argv[2]), "second")
