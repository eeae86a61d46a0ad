"""What each scenario measures: one module each, with its ``Parameters`` and ``run``."""

from __future__ import annotations

from types import ModuleType

from tempos_bench.suite import (
    blast,
    broker_kill,
    churn,
    fanout_churn,
    fanout_exact,
    fanout_rate,
    lives,
    loop_free,
    loss,
    member_kill,
    path_moves,
    peers_latency,
    peers_rate,
    program_time,
    qos_fast,
    qos_rate,
    qos_slow,
    qos_workflows,
    redirect,
    request,
    round_trip,
    scale,
    slow_path,
    slowdown,
    soak,
    source_loss,
    source_ping,
    source_rtt,
    source_time,
)
from tempos_bench.suite.confirm import peers as confirmed_peers
from tempos_bench.suite.confirm import repair
from tempos_bench.suite.director import churn as collector_churn
from tempos_bench.suite.director import rate as director
from tempos_bench.suite.fleet import churn as fleet_churn
from tempos_bench.suite.fleet import join as fleet_join
from tempos_bench.suite.fleet import kill as fleet_kill
from tempos_bench.suite.fleet import scale as fleet_scale
from tempos_bench.suite.invoke import chaos as invoke_chaos
from tempos_bench.suite.invoke import peers as invoke_peers
from tempos_bench.suite.invoke import ways as invoke_ways
from tempos_bench.suite.invoke import webhooks, workflows
from tempos_bench.suite.networks import roaming, strangers
from tempos_bench.suite.observe import pauses as observe_pauses
from tempos_bench.suite.observe import peers as observe_peers
from tempos_bench.suite.observe import sources as observe_sources
from tempos_bench.suite.observe import watched
from tempos_bench.suite.topics import churn as topic_churn
from tempos_bench.suite.topics import journal_cost, many, redelivery
from tempos_bench.suite.topics import scale as topics_scale

#: Scenario by the name of its file.
MODULES: dict[str, ModuleType] = {
    "blast": blast,
    "broker-kill": broker_kill,
    "churn": churn,
    "collector-churn": collector_churn,
    "confirmed-peers": confirmed_peers,
    "director": director,
    "fanout-churn": fanout_churn,
    "fanout-exact": fanout_exact,
    "fanout-many": many,
    "fanout-rate": fanout_rate,
    "fleet-churn": fleet_churn,
    "fleet-join": fleet_join,
    "fleet-kill": fleet_kill,
    "fleet-scale": fleet_scale,
    "invoke": invoke_ways,
    "invoke-chaos": invoke_chaos,
    "invoke-peers": invoke_peers,
    "loop-free": loop_free,
    "journal-cost": journal_cost,
    "lives": lives,
    "loss": loss,
    "member-kill": member_kill,
    "observe-pauses": observe_pauses,
    "observe-peers": observe_peers,
    "observe-sources": observe_sources,
    "path-moves": path_moves,
    "peers-latency": peers_latency,
    "peers-rate": peers_rate,
    "program-time": program_time,
    "qos-fast": qos_fast,
    "qos-rate": qos_rate,
    "qos-slow": qos_slow,
    "qos-workflows": qos_workflows,
    "redelivery": redelivery,
    "redirect": redirect,
    "repair": repair,
    "request": request,
    "roaming": roaming,
    "round-trip": round_trip,
    "scale": scale,
    "slow-path": slow_path,
    "slow-path-gso": slow_path,
    "slowdown": slowdown,
    "soak": soak,
    "source-loss": source_loss,
    "source-ping": source_ping,
    "source-rtt": source_rtt,
    "source-time": source_time,
    "strangers": strangers,
    "topic-churn": topic_churn,
    "topics-scale": topics_scale,
    "watching": watched,
    "webhooks": webhooks,
    "workflows": workflows,
}

__all__ = ["MODULES"]
