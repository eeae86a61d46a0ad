"""Numbers for Prometheus: pages in pieces, histograms, alerts and a dashboard that ask for what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from prometheus_client.parser import text_string_to_metric_families

import tempos_broker.api.metrics
import tempos_controller.metrics
import tempos_invoker.metrics
import tempos_trigger.metrics
from tempos._abi import LATENCY_BUCKETS
from tempos.histogram import Histogram, Latency
from tempos_broker.api.metrics import BOUNDS, buckets, drift
from tempos_broker.latency import latency_document
from tempos_daemon.metrics import Family, Kind, Sample, counter, gauge, pieces, sample

CONFIG = Path(__file__).resolve().parents[2] / "config"
MODULES = (
    tempos_broker.api.metrics, tempos_controller.metrics, tempos_invoker.metrics, tempos_trigger.metrics,
)  # fmt: skip
COUNT, WAITING = counter("things_total", "things", "name"), gauge("waiting", "waits\nhere", "name", "why")


async def page(samples: list[Sample]) -> str:
    return b"".join([piece async for piece in pieces(iter(samples))]).decode()


async def test_a_page_of_many_pieces_is_one_page() -> None:
    samples = [sample(COUNT, number, f"n{number}") for number in range(100)]
    samples[50:50] = [sample(WAITING, 0.5, 'a"b\\c\nd', "x")]
    told = await page(samples)
    assert told.count("# TYPE things_total counter") == 1
    found = {family.name: family.samples for family in text_string_to_metric_families(told)}
    assert [each.value for each in found["things"]] == list(range(100))
    assert found["waiting"][0].labels == {"name": 'a"b\\c\nd', "why": "x"}
    assert found["process_resident_memory_bytes"][0].value > 1 << 20


async def test_a_histogram_tells_all_it_has_counted() -> None:
    counts = [0] * LATENCY_BUCKETS
    for index in (3, 40, 40, 100, LATENCY_BUCKETS - 1):
        counts[index] += 1
    measured = Histogram(tuple(counts), longest=10**10, beyond=2, ahead=1)
    document = latency_document(Latency(measured, Histogram((0,) * LATENCY_BUCKETS)))
    assert document is not None
    value = buckets(document["program"])
    assert value.number == 8
    assert [count for _, count in value.below] == sorted(count for _, count in value.below)
    # Three are longer than any bound.
    assert value.below[-1] == (BOUNDS[-1] / 1e9, 5)
    family = Family("took_seconds", "time", (), Kind.HISTOGRAM)
    told = await page([sample(family, value)])
    assert 'took_seconds_bucket{le="+Inf"} 8.0' in told.splitlines()


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, 0),
        ({"fast": 4}, 1),
        ({"balanced": False}, 1),
        ({"refused": {"queue_full": 3}}, 3),
        ({"tickets": 11, "filtered": 2, "sampled": 1}, 0),
        ({"tickets": 11, "filtered": 2}, 1),
    ],
)
def test_what_an_account_leaves_open_is_drift(change: dict[str, object], wanted: int) -> None:
    group = {"tickets": 8, "delivered": 5, "dropped": 1, "unconfirmed": 1, "lost": 1, "unknown": 0,
             "filtered": 0, "sampled": 0,
             "orphaned": 6, "redelivered": 3, "pending": 2, "lapsed": 1}  # fmt: skip
    of_group = {key: value for key, value in change.items() if key in group}
    change = {key: value for key, value in change.items() if key not in group}
    group |= of_group  # type: ignore[arg-type]
    topic = {"received": 8, "fast": 5, "slow": 3, "refused": {}, "balanced": True, "groups": [group]}
    assert drift({**topic, **change}) == wanted


# What is handed out beside the daemons


def families(module: ModuleType) -> dict[str, Family]:
    found = {each.name: each for each in vars(module).values() if isinstance(each, Family)}
    for accounts in vars(module).values():
        if type(accounts).__name__ == "_Accounts":
            found |= {each.name: each for each in vars(accounts).values()}
    return found


def asked() -> dict[str, list[str]]:
    """Every query of the alerts and of the dashboard, by where it stands."""
    rules = (CONFIG / "prometheus" / "alerts.yml").read_text()
    board = json.loads((CONFIG / "grafana" / "tempos.json").read_text())
    return {
        "alerts": re.findall(r"^ +expr: (.*)$", rules, re.MULTILINE),
        "dashboard": [target["expr"] for panel in board["panels"] for target in panel["targets"]],
    }


@pytest.mark.parametrize("where", ["alerts", "dashboard"])
def test_every_query_is_for_a_metric_and_labels_that_there_are(where: str) -> None:
    known = {name: each for module in MODULES for name, each in families(module).items()}
    for query in asked()[where]:
        names = re.findall(r"\b(tempos_\w+?)(?:_bucket)?(?=[{\[( )!=>]|$)", query)
        assert names or "process_" in query or "up{" in query, query
        for name in names:
            assert name in known, query
            for selector in re.findall(rf"\b{name}(?:_bucket)?{{([^}}]*)}}", query):
                labels = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector))
                assert labels <= {*known[name].labels, "instance"}, query
        for by in re.findall(r"by \(([^)]*)\)", query):
            labels = {label for name in names for label in known[name].labels}
            assert set(re.findall(r"\w+", by)) <= {*labels, "instance", "le"}, query


def test_every_alert_says_what_to_do() -> None:
    rules = (CONFIG / "prometheus" / "alerts.yml").read_text()
    assert rules.count("- alert:") == rules.count("runbook:") == rules.count("summary:") > 10
