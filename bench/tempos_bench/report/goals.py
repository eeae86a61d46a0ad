"""The figures that the project is held to: one row each, and the scenario that computes it.

This list is the only place that joins the goals with scenarios. The bound itself is the target in the
scenario's file; a result carries it along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tempos_bench.report.figures import Report, Row


@dataclass(frozen=True, slots=True)
class Goal:
    """``what`` is measured ``against`` what, by the ``figures`` (names, or patterns) of a scenario."""

    what: str
    against: str
    scenario: str
    figures: tuple[str, ...]


_SQ = ("*SQ p99*", "*SQ lost*")

GOALS = (
    Goal("fast path, datagrams/s, one group", "an XDP program that only redirects", "redirect", ("ratio",)),
    Goal("fast path, program time", "an empty XDP_PASS program", "program-time", ("difference",)),
    Goal("fast path, 100,000 datagrams sent without pause from a real socket", "", "blast", ("*: lost",)),
    Goal(
        "fast path, round trip", "kernel IP forwarding through the same node", "round-trip",
        ("ratio, native", "ratio, generic"),
    ),
    Goal("fan-out to 4 groups", "tc clone", "fanout-rate", ("*4 groups*tc*", "*tc*4 groups*")),
    Goal("1,000 plain subscribers, slow path", "a bare `sendmmsg` loop", "fanout-many", ("ratio to*",)),
    Goal("a topic with a journal, fast path", "one without, same run", "journal-cost", ("fast path*ratio",)),
    Goal("1 % random loss on each leg", "", "repair", ("lost", "doubled", "*, median", "*, p99")),
    Goal(
        "every event confirmed, end to end", "JetStream in memory, Mosquitto QoS 1", "confirmed-peers",
        ("rate of*", "p99 of*"),
    ),
    Goal("slow path, datagrams/s", "a C recvmmsg/sendmmsg forwarder", "slow-path", ("ratio to C",)),
    Goal("slow path", "plain uvloop DatagramProtocol forwarder", "slow-path", ("ratio to uvloop",)),
    Goal("SQ p99 under a BQ flood, slow path", "SQ p99 alone", "qos-slow", _SQ),
    Goal("SQ p99 under a BQ flood, fast path", "SQ p99 alone", "qos-fast", _SQ),
    Goal("slow path, publishers using GSO", "the same C forwarder", "slow-path-gso", ("ratio to C*",)),
    Goal(
        "small events/s end to end, batched", "NATS core on the same three nodes", "peers-rate", ("*NATS*",)
    ),
    Goal(
        "datagrams of existing senders, handed on", "best of nfacctd, nginx, rsyslog, samplicator",
        "director", ("*to the best peer*",),
    ),
    Goal("loss beside a collector that is gone", "", "director", ("*gone*",)),
    Goal(
        "event to function, one way, 1,000/s", "nats-py queue group; an HTTP server", "invoke-peers",
        ("*p50 to the best peer", "*CPU to NATS", "*CPU to HTTP that spawns"),
    ),
    Goal("WASM function, fresh for each event", "the same in Python, in process", "invoke", ("WASM fresh*",)),
    Goal("WASM function, fresh for each event", "wasmtime's Python binding", "invoke", ("wasmtime-py*",)),
    Goal("DLF kept", "the same function in Python", "invoke", ("DLF kept*",)),
    Goal("fresh process for each event", "posix_spawn of the same program", "invoke", ("program ahead*",)),
    Goal("warm Python worker", "ProcessPoolExecutor", "invoke", ("Python worker*",)),
    Goal("2 SQ beside 4 BQ functions", "SQ alone", "invoke", ("SQ *",)),
)  # fmt: skip


def rows(goal: Goal, reports: Mapping[str, Report]) -> Sequence[Row]:
    """The rows with a target that speak for a goal; none where its scenario was not run."""
    report = reports.get(goal.scenario)
    if report is None:
        return ()
    return [
        row
        for row in report.rows
        if row.target and any(fnmatchcase(row.name, pattern) for pattern in goal.figures)
    ]
