"""The real Prometheus: it takes the rules, finds nothing wrong with a page, scrapes a broker, and answers."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from support.brokers import get, serving
from support.counterparts import Server
from support.ports import free_ports
from support.waiting import LIMIT

from tempos import wire
from tempos.blocking import Subscriber

CONFIG = Path(__file__).resolve().parents[2] / "config" / "prometheus"
EVENTS = 50


class Prometheus(Server):
    """Scrapes one port every 200 ms, with the alerts that tempos comes with."""

    name, ready = "prometheus", "Server is ready to receive web requests"

    def __init__(self, folder: Path, target: int) -> None:
        super().__init__(folder)
        self._target = target

    def command(self) -> list[str]:
        text = (CONFIG / "prometheus.yml").read_text()
        head = text.replace("5s", "200ms").partition("  - job_name: tempos-platform")[0]
        shutil.copy(CONFIG / "alerts.yml", self.folder)
        file = self.folder / "prometheus.yml"
        file.write_text(head.replace("9996", str(self._target)))
        listen = f"--web.listen-address=127.0.0.1:{self.port}"
        return [self.program, f"--config.file={file}", f"--storage.tsdb.path={self.folder}/data", listen]

    def ask(self, path: str, **arguments: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.request("GET", f"/api/v1/{path}?{urllib.parse.urlencode(arguments)}")
            return json.load(connection.getresponse())["data"]
        finally:
            connection.close()

    def value(self, query: str) -> float | None:
        found = self.ask("query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None


def promtool(*arguments: str, text: str | None = None) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    done = subprocess.run(
        [program, *arguments], input=text, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_rules_and_the_configuration_are_right() -> None:
    promtool("check", "rules", str(CONFIG / "alerts.yml"))
    promtool("check", "config", str(CONFIG / "prometheus.yml"))


def test_it_scrapes_a_broker_and_answers(tmp_path: Path) -> None:
    data, control, api = free_ports(3)
    file = tmp_path / "broker.toml"
    file.write_text(
        f'[broker]\nlisten = ["127.0.0.1"]\ndata_port = {data}\ncontrol_port = {control}\n'
        f'name = "watched-{data}"\napi = "127.0.0.1:{api}"\n[fastpath]\nmode = "off"\n'
        '[state]\nfile = "off"\n[control]\nheartbeat = 0.1\n[[topic]]\nid = 1\nname = "plant/line1"\n'
    )
    prometheus = Prometheus(tmp_path, api)
    with serving(file, tmp_path / "broker.log"):
        prometheus.start()
        try:
            with Subscriber("127.0.0.1", "plant/line1", group="g", control_port=control) as sub:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    for number in range(EVENTS):
                        sender.sendto(wire.encode_event(1, 7, number, 1, b"x"), ("127.0.0.1", data))
                for _ in range(EVENTS):
                    next(iter(sub))
                query = 'sum(tempos_group_delivered_total{topic="plant/line1",group="g"})'
                end = time.monotonic() + LIMIT
                while prometheus.value(query) != EVENTS:
                    assert time.monotonic() < end, prometheus.ask("targets")
                    time.sleep(0.05)
                assert prometheus.value("sum(tempos_datagrams_received_total)") == EVENTS
                assert prometheus.value("max(tempos_ledger_drift)") == 0
                assert prometheus.value("tempos_group_members") == 1
            groups = prometheus.ask("rules")["groups"]
            rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
            assert {rule["health"] for rule in rules.values()} <= {"ok", "unknown"}, rules
            assert rules["TemposLedgerDrift"]["state"] == "inactive"
            assert "TemposDown" in rules
            connection = http.client.HTTPConnection("127.0.0.1", api, timeout=LIMIT)
            connection.request("GET", "/metrics")
            page = connection.getresponse().read()
            connection.close()
            # What it would call bad style.
            promtool("check", "metrics", text=page.decode())
            assert get(api, "/v1/ledger")["balanced"]
        finally:
            prometheus.end()
