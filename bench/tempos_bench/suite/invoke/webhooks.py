"""Requests that become events, beside an HTTP server that only says 202: what a trigger takes of a core.

All in one node, over loopback: the server on the first core, callers and broker on the other, one server at
a time. Callers ask as soon as they are answered, each on a connection that stays. The trigger publishes an
event for each request before it answers; the bare server, uvicorn with starlette, reads the body and answers.
"""

from __future__ import annotations

import http.client
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

from tempos import Topic, Unavailable
from tempos_bench.measure import samples
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.stats import percentile, ratios, summarize
from tempos_bench.nodes.node import PYTHON, TEXT_FILE, Node, Program, ProgramFailed
from tempos_bench.nodes.process import used
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, interleave
from tempos_bench.runs.run import Run, current

_TOPIC = Topic(id=1, name="hooks")
TRIGGER, FAST, PLAIN = "tempos trigger", "starlette on httptools", "starlette on h11"
_PORTS = {TRIGGER: 8080, FAST: 8081, PLAIN: 8082}
_API = 9994
_FILE = """
[trigger]
api = "127.0.0.1:{api}"
state = {state}
log = "warning"
[broker]
[[endpoint]]
name = "in"
kind = "http"
topic = "hooks"
listen = "127.0.0.1:{port}"
path = "/in"
"""


@dataclass(frozen=True, slots=True)
class Parameters:
    """``seconds`` a round with bodies of ``payload`` bytes, for each number of ``connections``."""

    rounds: int
    seconds: float
    payload: int
    connections: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Called:
    """Percentiles in microseconds, answers/s, the server's processor time in microseconds a request."""

    p50: float
    p99: float
    rate: float
    cpu: float
    calls: int
    wrong: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    first, second = cores()
    with ExitStack() as stack:
        node = stack.enter_context(build()).broker
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        Broker(node, {_TOPIC: ()}, mode="off", listen=("127.0.0.1",), cpu=second)
        text = _FILE.format(api=_API, state=json.dumps(folder), port=_PORTS[TRIGGER])
        trigger = node.start(
            (PYTHON, "-m", "tempos", "trigger", "-c", TEXT_FILE), ready="ready", cpu=first, text=text
        )
        servers = {TRIGGER: trigger, FAST: _bare(node, FAST, first), PLAIN: _bare(node, PLAIN, first)}
        callers = {
            (name, count): node.start(
                (
                    PYTHON, "-m", "tempos_bench.calls.callers",
                    str(_PORTS[name]), str(count), str(p.payload),
                ),
                ready="ready", cpu=second, talk=True,
            )
            for name in servers
            for count in p.connections
        }  # fmt: skip
        variants = {
            _of(name, count): partial(_measured, _of(name, count), servers[name], callers[name, count], p)
            for count in p.connections
            for name in servers
        }
        found = interleave(p.rounds, variants, progress)
        told = _account(node)
    calls = sum(row.calls for count in p.connections for row in found[_of(TRIGGER, count)])
    progress.note("server on the first core, callers and broker on the other; bodies of "
                  f"{p.payload} bytes")  # fmt: skip
    return [
        *(figure for count in p.connections for figure in _compared(found, count)),
        Figure("requests that are not in the account", abs(told - calls), "requests", Better.LOWER),
        *(figure for name, rows in found.items() for figure in _told(name, rows)),
    ]


def _bare(node: Node, name: str, core: int) -> Program:
    protocol = name.rpartition(" ")[2]
    command = (PYTHON, "-m", "tempos_bench.calls.bare", protocol, str(_PORTS[name]))
    try:
        return node.start(command, ready="ready", cpu=core)
    except ProgramFailed as error:
        raise Unavailable(f"{name} is not to be had (`make peers` installs it): {error}") from error


def _measured(name: str, server: Program, caller: Program, p: Parameters) -> Called:
    (before,) = used([server.pid])
    got = caller.ask({"seconds": p.seconds}, limit=p.seconds + 30)
    (after,) = used([server.pid])
    times: list[int] = got["times"]
    current().add_samples(name, samples.pack(times))
    return Called(
        percentile(times, 50) / 1000, percentile(times, 99) / 1000, len(times) / got["seconds"],
        (after - before) / len(times) * 1e6, len(times), got["wrong"],
    )  # fmt: skip


def _account(node: Node) -> int:
    """The events that the trigger says it has published, which is all that it received."""

    def ask() -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", _API, timeout=10)
        with closing(connection):
            connection.request("GET", "/v1/status")
            return connection.getresponse().read()

    (endpoint,) = json.loads(node.call(ask))["endpoints"]
    return int(endpoint["published"]) if endpoint["balanced"] else -1


def _compared(found: Mapping[str, Sequence[Called]], connections: int) -> list[Figure]:
    """Ours to theirs, round by round."""
    ours = found[_of(TRIGGER, connections)]
    figures = []
    for other in (FAST, PLAIN):
        theirs = found[_of(other, connections)]
        text = f"{connections} connections: {TRIGGER} to {other}"
        rate = ratios([each.rate for each in ours], [each.rate for each in theirs])
        p50 = ratios([each.p50 for each in ours], [each.p50 for each in theirs])
        cpu = ratios([each.cpu for each in ours], [each.cpu for each in theirs])
        figures += [
            median(f"{text}, requests/s", rate, "x", Better.HIGHER),
            median(f"{text}, p50", p50, "x", Better.LOWER),
            median(f"{text}, processor time", cpu, "x", Better.LOWER),
        ]
    return figures


def _told(name: str, rows: Sequence[Called]) -> list[Figure]:
    return [
        median(f"{name}, rate", summarize([row.rate for row in rows]), "requests/s"),
        median(f"{name}, p50", summarize([row.p50 for row in rows]), "us"),
        median(f"{name}, p99", summarize([row.p99 for row in rows]), "us", Better.NEITHER),
        median(f"{name}, processor time", summarize([row.cpu for row in rows]), "us/request"),
        Figure(f"{name}, not answered with 202", sum(row.wrong for row in rows), "requests", Better.LOWER),
    ]


def _of(name: str, connections: int) -> str:
    return f"{connections} connections: {name}"
