"""Brokers that are forks of a process with all modules imported begin, fail and end as others do."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from support.privileges import require_netns
from support.warm import BROKER, WarmNode

from tempos_bench.measure.broker import config_text
from tempos_bench.nodes.namespace import Namespace
from tempos_bench.nodes.node import TEXT_FILE, ProgramFailed

pytestmark = pytest.mark.netns
COMMAND = (*BROKER, "-c", TEXT_FILE)


@pytest.fixture
def node() -> Iterator[WarmNode]:
    require_netns()
    with Namespace("warm") as space:
        node = WarmNode("warm", space, ("127.0.0.1",), ())
        node.start(("ip", "link", "set", "lo", "up")).wait(10.0)
        yield node
        node.close()


def test_it_serves_in_its_namespace_and_ends_as_it_is_told(node: WarmNode) -> None:
    text = config_text(node.addresses, {}, "off", ())
    for number, code in ((signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)):
        broker = node.start(COMMAND, ready="ready", text=text)
        assert node.request("GET", "/v1/status")["topics"] == []
        broker.send(number)
        assert broker.wait(15.0) == code
        assert not broker.running
        assert "Warning" not in broker.output


def test_what_is_wrong_is_told_in_its_output_and_by_its_exit_code(node: WarmNode) -> None:
    with pytest.raises(ProgramFailed, match="nobody"):
        node.start(COMMAND, ready="ready", text="[broker]\nnobody = 1\n")
    broker = node.start(COMMAND, text="[broker]\nnobody = 1\n")
    assert broker.wait(15.0) == 2
