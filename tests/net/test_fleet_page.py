"""The live page and the metrics of a broker tell of its fleet."""

from __future__ import annotations

import signal
import urllib.request
from pathlib import Path

from support.brokers import post
from support.etcd import Cluster
from support.fleets import Fleet, ended
from support.pages import SOON, expect, launched, page
from support.waiting import LIMIT, until


def test_the_page_and_the_metrics_tell_of_the_fleet(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.start()
    try:
        with ended(Fleet(tmp_path, cluster.endpoints, "one", "two", lease=2)) as fleet, launched() as browser:
            fleet.start()
            with page(browser, fleet.apis["one"]) as shown:
                rows = shown.locator("#brokers tbody tr")
                expect(rows).to_have_count(2, timeout=SOON)
                expect(rows.nth(1)).to_contain_text("zone-two", timeout=SOON)
                two = f"two-{fleet.data}"
                post(fleet.apis["one"], f"/v1/fleet/brokers/{two}/drain")
                expect(rows.nth(1)).to_contain_text("out of service", timeout=SOON)
                until(
                    lambda: (
                        f'tempos_fleet_leaving{{broker="{two}",fleet="test-{fleet.data}"}} 1'
                        in metrics(fleet)
                    )
                )
                assert f'tempos_fleet_lacks{{broker="{two}",fleet="test-{fleet.data}"}} 0' in metrics(fleet)
                fleet.end("two", how=signal.SIGKILL)
                expect(rows).to_have_count(1, timeout=SOON)
                expect(shown.locator("#changes li", has_text="is in fleet").first).to_be_visible(timeout=SOON)
    finally:
        cluster.end()


def metrics(fleet: Fleet) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{fleet.apis['one']}/metrics", timeout=LIMIT) as answer:
        return str(answer.read().decode())
