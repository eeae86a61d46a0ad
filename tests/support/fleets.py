"""A fleet of brokers on loopback, a process and an address each, all with the same ports."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from support.brokers import WAYS, serving
from support.ports import free_ports
from support.waiting import until
from tempos import Publisher, Subscriber

TOPICS = """
[[topic]]
id = 1
name = "a"
class = "SQ"
framing = "event"
[[topic]]
id = 2
name = "b"
class = "BQ"
framing = "event"
"""


class Fleet:
    """``names``: of the brokers; ``etcd``: URLs. Each begins with :meth:`start`, and may end at any time.

    ``store``: more of ``[fleet]``.
    """

    def __init__(
        self,
        folder: Path,
        etcd: Sequence[str],
        *names: str,
        way: str = "batches",
        more: str = TOPICS,
        state: bool = False,
        lease: float = 3,
        store: str = "",
    ) -> None:
        self.data, self.control, *apis = free_ports(2 + len(names))
        self.names = names
        self.addresses = {name: f"127.0.77.{number}" for number, name in enumerate(names, 1)}
        self.apis = dict(zip(names, apis, strict=True))
        self._folder, self._stack = folder, ExitStack()
        self._running: dict[str, tuple[ExitStack, subprocess.Popen[str]]] = {}
        worker, self._portable = WAYS[way]
        for name in names:
            stored = str(folder / f"{name}.db") if state else "off"
            (folder / f"{name}.toml").write_text(
                f"""\
[broker]
name = "{name}-{self.data}"
listen = ["{self.addresses[name]}"]
data_port = {self.data}
control_port = {self.control}
api = "127.0.0.1:{self.apis[name]}"
[fastpath]
mode = "off"
[state]
file = {json.dumps(stored)}
[control]
lease = {lease}
heartbeat = {lease / 4}
[quality]
worker_sq = {str(worker).lower()}
[fleet]
name = "test-{self.data}"
etcd = {json.dumps(list(etcd))}
lease = {max(lease, 2)}
zone = "zone-{name}"
{store}
{more}"""
            )

    def start(self, *names: str, registered: bool = True) -> None:
        """Start these, or all; ``registered``: wait until each knows all that run."""
        for name in names or self.names:
            stack = ExitStack()
            options = ["--portable"] if self._portable else []
            process = stack.enter_context(
                serving(self._folder / f"{name}.toml", self._folder / f"{name}.log", *options)
            )
            self._running[name] = stack, process
        if registered:
            wanted = {f"{name}-{self.data}" for name in self._running}
            until(
                lambda: all(wanted <= set(self.known(name)) for name in self._running),
                lambda: str({name: self.known(name) for name in self._running}),
            )

    def end(self, *names: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End these, or all that run."""
        for name in names or tuple(self._running):
            stack, process = self._running.pop(name)
            process.send_signal(how)
            stack.close()

    def signal(self, name: str, what: signal.Signals) -> None:
        """Send one a signal."""
        self._running[name][1].send_signal(what)

    def log(self, name: str) -> str:
        """What one has said."""
        return (self._folder / f"{name}.log").read_text()

    def status(self, name: str) -> dict[str, Any]:
        """The status of one."""
        from support.brokers import get

        return get(self.apis[name], "/v1/status")

    def known(self, name: str) -> list[str]:
        """The brokers that one knows, where it reaches the registry."""
        fleet = self.status(name)["fleet"]
        return [] if fleet["registry"] == "away" else [each["name"] for each in fleet["brokers"]]

    def subscriber(self, name: str, *topics: str, **options: Any) -> Subscriber:
        return Subscriber(self.addresses[name], *topics, control_port=self.control, **options)

    def publisher(self, name: str, **options: Any) -> Publisher:
        return Publisher(self.addresses[name], data_port=self.data, control_port=self.control, **options)


@contextmanager
def ended(fleet: Fleet) -> Iterator[Fleet]:
    """It is ended in any case."""
    try:
        yield fleet
    finally:
        fleet.end()
