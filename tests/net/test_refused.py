"""A kernel whose verifier refuses the fast path: the broker serves, and says why in lines one can read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.privileges import require_kernel, require_netns
from support.refused import REASON, refused_fast_path

from tempos import Path, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import Topology, build

pytestmark = pytest.mark.netns

TOPIC = Topic(id=1, name="news")
#: More than any line of a terminal, less than a verifier's log.
WIDEST = 500


@pytest.fixture(scope="module")
def straight() -> Iterator[Topology]:
    require_netns()
    require_kernel()
    with refused_fast_path(), build("straight") as topology:
        yield topology


def texts(document: object) -> Iterator[str]:
    """Every string of a JSON document."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict):
        for value in document.values():
            yield from texts(value)
    elif isinstance(document, list):
        for value in document:
            yield from texts(value)


def test_every_place_where_a_person_looks_has_one_sentence(straight: Topology) -> None:
    with Broker(straight.broker, {TOPIC: ()}) as broker:
        status = broker.status()
        broker.wait_path(TOPIC.name, Path.SLOW)
        log = broker.program.output
    fast = status["paths"]["fast"]
    assert fast["mode"] == "none"
    reason = fast["reason"]
    assert reason.count(REASON) == 1, "once for both modes and all interfaces"
    assert "native and generic mode: the kernel's verifier refused the program tempos_fastpath" in reason
    assert "fastpath.bpf.c:" in reason or "`return " in reason, "with the line of source"
    assert reason.endswith("the verifier's whole log: tempos doctor --log")
    assert status["quality"]["reason"].endswith("not ebpf: XDP could be attached to no interface")
    for text in texts(status):
        assert "\n" not in text
        assert len(text) < WIDEST, text
    assert REASON in log
    for line in log.splitlines():
        assert len(line) < 2 * WIDEST, line
        assert not line.startswith(("; ", "processed ")), "of the verifier's log nothing but the cause"
