"""The demo's last part: a workflow from signal to function and back, by each of the broker's paths.

The caller and its HTTP trigger are in A, broker and Controller in B, the invoker in C, all as anyone starts
them; the Controller has them do what one file says. Who carried the events the broker's counters say, and
what became of each call the accounts of trigger and invoker.
"""

from __future__ import annotations

import http.client
import json
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from tempos import Path, TemposError
from tempos.doctor.installation import lacking_packages
from tempos_bench.demo.demo import WAYS, Outcome, Way, nodes
from tempos_bench.measure.broker import Broker, TopicStatus
from tempos_bench.nodes.node import PYTHON, Node, ProgramFailed
from tempos_bench.report.figures import number, table
from tempos_bench.runs.rounds import cores

TOPIC = "texts"
_TOKEN = "of-the-demo-alone"  # noqa: S105 - of daemons that live for seconds, in namespaces of their own
_EXTRAS = ("controller", "invoker", "trigger")
#: A webhook's port that nobody else has, in case this is no node of our own.
_INVOKER, _TRIGGER, _CONTROLLER, _HTTP = 9995, 9994, 9993, 18080
_CALLS, _RATE = 600, 200.0
_LIMIT = 30.0
#: For as many calls as there are between two words about them.
_SOME_CALLS_LIMIT = 60.0
_OFFLOAD_LIMIT = 10.0
HEADERS = ("workflow by", "calls", "answered", "wrong", "calls/s", "p50 us", "p90 us", "p99 us")

_FUNCTION = """\
import json


def count(body):
    asked = json.loads(body)
    return json.dumps({"count": asked["text"].count(asked["pattern"])}).encode()
"""
_FILE = """\
[controller]
api = "127.0.0.1:{controller}"
api_token = "{token}"
[broker]
address = "{broker}"
[[node]]
name = "sensors"
start = false
invoker = "off"
trigger = "{a}:{trigger}"
trigger_token_file = "{folder}/token"
broker = "{near}"
[[node]]
name = "workers"
start = false
invoker = "{c}:{invoker}"
trigger = "off"
invoker_token_file = "{folder}/token"
broker = "{far}"
[[trigger]]
name = "webhook"
kind = "http"
node = "sensors"
listen = "127.0.0.1:{http}"
path = "/count"
answer = true
[[function]]
name = "count"
mode = "python"
code = "count.py"
entry = "count:count"
[[workflow]]
name = "count"
trigger = "webhook"
topic = "texts"
class = "SQ"
node = "workers"
error = "errors"
[[workflow.step]]
function = "count"
"""


@dataclass(frozen=True, slots=True)
class Called:
    """What came of the calls by one way. ``carried``: who carried their events."""

    carried: Outcome
    calls: int
    answered: int
    wrong: Mapping[str, int]
    calls_per_s: float
    latency_us: Mapping[str, float | None]

    @property
    def sound(self) -> bool:
        """Whether every call was answered, and every account says so too."""
        return self.answered == self.calls and self.carried.sound

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        told = {"name": self.carried.name, "taken": self.carried.taken, "sound": self.sound}
        counts = {"calls": self.calls, "answered": self.answered, "wrong": dict(self.wrong)}
        paths = {"fast": self.carried.fast, "slow": self.carried.slow, "reason": self.carried.reason}
        return {**told, **counts, "latency_us": dict(self.latency_us), **paths, "story": self.carried.story}

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        counts = (self.calls, self.answered, sum(self.wrong.values()), self.calls_per_s)
        latencies = ("-" if each is None else f"{each:,.0f}" for each in self.latency_us.values())
        return (self.carried.name, *map(number, counts), *latencies)


def run(
    progress: Callable[[str], None], lacking: str | None, words: Collection[str] = ()
) -> tuple[list[Called], str | None]:
    """Call the workflow by every way that can be had; the rows, and why there are none, or no more.

    ``lacking``: what is missing for nodes; ``words``: only these ways.
    """
    ways = [way for way in (WAYS if lacking is None else WAYS[:2]) if way.mode is not None]
    ways = [way for way in ways if not words or way.word in words]
    without = sorted({each for extra in _EXTRAS for each in lacking_packages(extra)})
    if not ways or without:
        install = f"pip install 'tempos[{','.join(_EXTRAS)}]'"
        return [], f"not installed: {', '.join(without)}; {install}" if ways else None
    found: list[Called] = []
    with nodes(lacking) as three:
        for way in ways:
            progress(f"workflow, {way.name}: {_CALLS:,} calls")
            try:
                with tempfile.TemporaryDirectory(prefix="tempos-demo-") as folder:
                    found.append(_call(way, FilePath(folder), three))
            except (OSError, TemposError) as error:
                return found, f"{way.name}: {error}"
    return found, None


def as_text(rows: Sequence[Called], why: str | None) -> str:
    """The table and the story of each row, for people; ``why`` there is none, or no more."""
    lines = [] if why is None else [f"NOT SHOWN: a workflow: {why}"]
    if not rows:
        return "\n".join(lines)
    width = max(len(each.carried.name) for each in rows)
    wrong = ((each.carried.name, *kind) for each in rows for kind in each.wrong.items())
    return "\n".join([
        table(HEADERS, [each.cells() for each in rows]),
        "",
        *(f"{each.carried.name.ljust(width)}  {each.carried.told}" for each in rows),
        *(f"NOT SHOWN: workflow, {each.carried.way.name}: {each.carried.reason}" for each in rows
          if not each.carried.taken),
        *(f"{name}: {what}, {count} times" for name, what, count in wrong),
        *lines,
    ])  # fmt: skip


def _call(way: Way, folder: FilePath, three: tuple[Node, Node, Node]) -> Called:
    a, b, c = three
    _write(folder, three)
    assert way.mode is not None
    began = []
    try:
        with Broker(b, {}, mode=way.mode, cpu=cores()[1]) as broker:
            for node, sort, cpu in ((a, "trigger", 0), (c, "invoker", 1)):
                command = (PYTHON, "-m", "tempos", sort, "-c", str(folder / f"{sort}.toml"))
                began.append(node.start(command, cpu=cores()[cpu]))
            for program in began:
                program.wait_line("ready", _LIMIT)
            up = (str(folder / "platform.toml"), "--state", str(folder / "state"))
            began.append(b.start((PYTHON, "-m", "tempos", "up", *up), ready="ready", limit=_LIMIT))
            if way.mode != "off" and broker.status()["paths"]["fast"]["mode"] != "none":
                # Where it does not come to that, the demo goes on: the row tells which path it was, and why.
                with suppress(ProgramFailed):
                    broker.wait_path(TOPIC, Path.FAST, _OFFLOAD_LIMIT)
            reason = broker.topic(TOPIC).reason
            got = _calls(a)
            account = b.call(_account)
            status = broker.wait_delivered(TOPIC, _CALLS, limit=2)
    finally:
        for program in began:
            program.terminate()
        for program in began:
            program.stop()
    return _called(way, got, account, status, reason)


def _calls(node: Node) -> dict[str, Any]:
    """Have them made there, however long a machine takes for all of them as long as they go on."""
    asked = {"host": "127.0.0.1", "port": _HTTP, "path": "/count", "calls": _CALLS, "rate": _RATE}
    words = (word for key, value in asked.items() for word in (f"--{key}", value))
    caller = node.role("demo.call", *words, cpu=cores()[0])
    while (line := caller.wait_line(limit=_SOME_CALLS_LIMIT)).startswith("called"):
        pass
    found: dict[str, Any] = json.loads(line)
    return found


def _called(
    way: Way, got: dict[str, Any], account: dict[str, Any], status: TopicStatus, reason: str
) -> Called:
    steps, endpoint = account["steps"][0]["accounts"][0]["account"], account["endpoints"][0]
    succeeded, published = steps["succeeded"], endpoint["published"]
    latency = got["latency_us"] or {}
    carried = Outcome(
        way=way,
        sent=got["calls"],
        received=succeeded,
        events_per_s=got["calls_per_s"],
        latency_us={},
        story=f"{published:,} published, {status.fast:,} by the fast path and {status.slow:,} by the slow of "
        f"{status.received:,} received, {succeeded:,} of {steps['accepted']:,} accepted succeeded, "
        f"{status.replies:,} replies",
        ledger_closed=status.closed and got["calls"] == published == status.received == steps["accepted"],
        fast=status.fast,
        slow=status.slow,
        reason=reason,
    )
    return Called(
        carried, got["calls"], got["answered"], got["wrong"], got["calls_per_s"],
        {f"p{percent}": latency.get(percent) for percent in ("50", "90", "99")},
    )  # fmt: skip


def _write(folder: FilePath, three: tuple[Node, Node, Node]) -> None:
    """The files that a person would write."""
    a, b, c = three
    (folder / "token").write_text(_TOKEN)
    (folder / "count.py").write_text(_FUNCTION)
    for sort, node, port in (("trigger", a, _TRIGGER), ("invoker", c, _INVOKER)):
        lines = [
            f"[{sort}]",
            f'api = "{node.address}:{port}"',
            f'api_token_file = "{folder}/token"',
            f'state = "{folder}/{sort}"',
        ]
        (folder / f"{sort}.toml").write_text("\n".join(lines))
    text = _FILE.format(
        controller=_CONTROLLER, token=_TOKEN, broker=b.address, folder=folder, a=a.address, c=c.address,
        near=b.addresses[0], far=b.addresses[-1], trigger=_TRIGGER, invoker=_INVOKER, http=_HTTP,
    )  # fmt: skip
    (folder / "platform.toml").write_text(text)


def _account() -> dict[str, Any]:
    """What the Controller tells of the workflow."""
    connection = http.client.HTTPConnection("127.0.0.1", _CONTROLLER, timeout=_LIMIT)
    with closing(connection):
        connection.request("GET", "/v1/workflows/count", headers={"Authorization": f"Bearer {_TOKEN}"})
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        if response.status != 200:
            raise TemposError(f"the Controller answers {response.status}: {answer.get('detail')}")
        return answer
