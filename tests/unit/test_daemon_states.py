"""What daemons keep on disk, damaged: it is told, with the file's name, and nothing else happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tempos import TemposError
from tempos_controller.force.items import FILE, RUN_TIME, with_nodes_of
from tempos_controller.force.store import Desired
from tempos_controller.force.store import Store as ControllerStore
from tempos_invoker.deploy.model import BrokerAt
from tempos_invoker.deploy.ports import Ports
from tempos_invoker.deploy.store import Store as InvokerStore
from tempos_trigger.store import Store as TriggerStore

WRITTEN: dict[str, Any] = {
    "version": 1, "items": {"function": {"f": {"name": "f"}}}, "origins": {"function/f": "file"}, "file": "",
    "made": {"texts": {"class": "SQ"}}, "changing": "",
}  # fmt: skip


def _controller(folder: Path) -> object:
    store = ControllerStore(folder)
    try:
        return store.read()
    finally:
        store.close()


def _invoker(folder: Path) -> object:
    store = InvokerStore(folder)
    try:
        return store.load()
    finally:
        store.close()


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[" * 100_000, b'{"a":' * 100_000])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("desired.json", _controller),
        ("deployment.json", _invoker),
        ("deployment.json", lambda folder: TriggerStore(folder).read("deployment.json")),
    ],
)
def test_what_is_no_document_is_told(
    tmp_path: Path, name: str, read: Callable[[Path], object], content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TemposError, match=f"{name}.* cannot be read"):
        read(tmp_path)
    (tmp_path / "ports.json").write_bytes(content)
    assert Ports(tmp_path / "ports.json").of(BrokerAt(), "texts", "g", 0) == 0


@pytest.mark.parametrize(
    "other",
    [
        {"items": []}, {"items": {"function": []}}, {"items": {"function": {"f": 1}}}, {"origins": {}},
        {"origins": {"function/f": "file", "node/n": "file"}}, {"file": 1}, {"made": {"texts": []}},
        {"made": 1}, {"changing": None}, {"version": 2},
    ],
)  # fmt: skip
def test_what_a_controller_never_wrote_is_told(tmp_path: Path, other: dict[str, Any]) -> None:
    file = tmp_path / "desired.json"
    file.write_text(json.dumps(WRITTEN))
    assert isinstance(_controller(tmp_path), Desired)
    file.write_text(json.dumps({**WRITTEN, **other}))
    with pytest.raises(TemposError, match=r"desired.json: cannot be read: .*move it away"):
        _controller(tmp_path)


def test_nodes_are_where_the_file_has_them_when_a_controller_begins() -> None:
    here, there = ({"name": "local", "invoker": f"127.0.0.1:{port}"} for port in (1, 2))
    other = {"name": "n"}
    for known, listed, wanted in (
        ({}, [], None),
        ({}, [there], {"local": there}),
        ({"local": here}, [there], {"local": there}),
        # The only node that there is without any in the file.
        ({"local": here}, [], {"local": {"name": "local"}}),
        ({"local": here}, [here], None),
        # Those that come, go or stay are a change like any other.
        ({"local": here}, [other], None),
        ({}, [other], None),
        ({"local": here, "n": other}, [there], {"local": there, "n": other}),
    ):
        desired = Desired({"node": known} if known else {}, dict.fromkeys((f"node/{n}" for n in known), FILE))
        found = with_nodes_of(desired, {"node": listed} if listed else {})
        assert found.items.get("node", {}) == (known if wanted is None else wanted), (known, listed)
        assert found.origins == {f"node/{name}": FILE for name in found.items.get("node", {})}
    # What an order made is nobody else's where the file does not have it.
    ordered = Desired({"node": {"local": here}}, {"node/local": RUN_TIME})
    assert with_nodes_of(ordered, {}) == ordered
