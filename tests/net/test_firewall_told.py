"""Rules of the host's firewall that the fast path passes by are told: for certain, or possibly."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from support.privileges import require_kernel, require_netns
from support.waiting import until

from tempos import Group, Member, Path, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.node import PYTHON
from tempos_bench.nodes.topology import Topology, build
from tempos_fastpath.network.firewall import judge

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not shutil.which("nft"), reason="the rules are made by nft (package nftables)"),
]

NONE, MAYBE, SURE = "", "possibly dropped", "dropped"
LEAVING = " when they leave again"
ALTERED = f"possibly altered{LEAVING}"
#: Rules of a chain at `input`, its policy, and what becomes of a datagram to port 9998.
CASES = [
    ("", "accept", NONE),
    ("", "drop", SURE),
    ("udp dport 9998 drop", "accept", SURE),
    ("udp dport { 53, 9990-9999 } counter log reject", "accept", SURE),
    ("udp dport 9997 drop", "accept", NONE),
    ("udp dport != 9998 drop", "accept", NONE),
    ("tcp dport 9998 drop", "accept", NONE),
    ("meta l4proto udp drop", "accept", SURE),
    ("ip protocol tcp drop", "accept", NONE),
    ("udp dport 9998 accept", "drop", NONE),
    ("ct state established,related accept", "drop", SURE),
    ("iifname lo accept", "drop", SURE),
    ("iifname eth0 udp dport 9998 accept", "drop", MAYBE),
    ("ip saddr 10.0.0.0/8 udp dport 9998 drop", "accept", MAYBE),
    ("udp dport 9998 limit rate 10/second accept", "drop", MAYBE),
    ("udp dport vmap { 9998 : drop }", "accept", MAYBE),
    ("jump more", "accept", SURE),
    ("udp dport 9998 accept\njump more", "accept", NONE),
    ("udp dport 9998 return\njump more", "accept", NONE),
]


#: Rules, what their chain hooks in as, its policy, and what becomes of an event that comes or leaves there.
OTHERS = [
    ("", "filter hook output priority 0", "drop", f"{SURE}{LEAVING}"),
    ("udp sport 9998 drop", "filter hook output priority 0", "accept", f"{SURE}{LEAVING}"),
    ("udp dport 9998 drop", "filter hook output priority 0", "accept", f"{MAYBE}{LEAVING}"),
    ("udp sport 9997 drop", "filter hook output priority 0", "accept", NONE),
    ("oifname lo drop", "filter hook output priority 0", "accept", NONE),
    ("ct state invalid drop", "filter hook output priority 0", "accept", NONE),
    ("ct state established accept", "filter hook output priority 0", "drop", f"{MAYBE}{LEAVING}"),
    ("ip daddr 10.0.0.0/8 drop", "filter hook postrouting priority 0", "accept",
     f"{MAYBE}{LEAVING}"),
    ("udp sport 9998 dnat ip to 10.9.9.9", "nat hook output priority -100", "accept",
     f"sent elsewhere{LEAVING}"),
    ("udp dport 9998 dnat ip to 10.9.9.9", "nat hook prerouting priority -100", "accept", "sent elsewhere"),
    ("udp dport 9998 redirect to :5000", "nat hook prerouting priority -100", "accept", "sent elsewhere"),
    ("iifname eth0 udp dport 9998 redirect to :5000", "nat hook prerouting priority -100", "accept",
     "possibly sent elsewhere"),
    ("udp dport 53 redirect to :5353", "nat hook prerouting priority -100", "accept", NONE),
    ("oifname eth1 masquerade", "nat hook postrouting priority 100", "accept",
     ALTERED),
    ("tcp sport 80 masquerade", "nat hook postrouting priority 100", "accept", NONE),
    ("ip dscp set 46", "filter hook postrouting priority 0", "accept", ALTERED),
    ("meta mark set 7", "route hook output priority 0", "accept", ALTERED),
    ("meta mark set 7", "filter hook output priority 0", "accept", NONE),
    ("udp dport 9998 drop", "filter hook forward priority 0", "accept", NONE),
]  # fmt: skip


@pytest.mark.parametrize(("text", "hook", "policy", "told"), OTHERS)
def test_what_becomes_of_an_event_on_all_of_its_way(text: str, hook: str, policy: str, told: str) -> None:
    ruleset = f"table inet guard {{\nchain entry {{\ntype {hook}; policy {policy};\n{text}\n}}\n}}\n"
    assert judged(ruleset) == ([told] if told else [])


def judged(ruleset: str) -> list[str]:
    require_netns()
    script = "nft -f - && nft -j list ruleset"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script], input=ruleset, text=True, capture_output=True, check=True
    )
    found = list(judge(json.loads(done.stdout), 9998))
    assert all("chain entry of table inet guard" in each for each in found)
    return [each.split(" by ")[0] for each in found]


def rules(text: str, policy: str) -> str:
    return (
        "table inet guard {\nchain more {\nudp dport 9998 drop\n}\n"
        f"chain entry {{\ntype filter hook input priority 0; policy {policy};\n{text}\n}}\n}}\n"
    )


@pytest.mark.parametrize(("text", "policy", "told"), CASES)
def test_what_becomes_of_a_datagram_to_the_data_port(text: str, policy: str, told: str) -> None:
    assert judged(rules(text, policy)) == ([told] if told else [])


def nft(topology: Topology, *words: str, text: str = "") -> None:
    def run() -> None:
        subprocess.run(["nft", *words], input=text, text=True, check=True, capture_output=True)

    topology.broker.call(run)


def test_where_everything_is_dropped_nothing_is_fast() -> None:
    require_netns()
    require_kernel()
    topic = Topic(7, "news")
    with build("straight") as topology:
        member = Member(topology.subscriber.address, 5001)
        with Broker(topology.broker, {topic: [Group("a", (member,))]}, mode="native") as broker:
            broker.wait_path(topic.name, Path.FAST)
            nft(topology, "-f", "-", text=rules("udp dport 9998 drop", "accept"))
            status = broker.wait_path(topic.name, Path.SLOW)
            why = "what comes in for the data port is dropped by nftables: chain entry of table inet guard"
            assert status.reason == why
            said = broker.program.output
            assert said.count("datagrams to port 9998 are dropped by nftables") == 1
            nft(topology, "flush", "ruleset")
            broker.wait_path(topic.name, Path.FAST)


def test_a_broker_tells_it_once_a_change_in_status_log_and_doctor() -> None:
    require_netns()
    require_kernel()
    with (
        build("straight") as topology,
        Broker(topology.broker, {Topic(7, "news"): []}, mode="native") as broker,
    ):

        def bypassed() -> list[str]:
            return list(broker.status()["paths"]["fast"]["bypassed"])

        assert bypassed() == []
        nft(topology, "-f", "-", text=rules("ip saddr 10.0.0.0/8 udp dport 9998 drop", "accept"))
        until(bypassed, "it is not told")
        (told,) = bypassed()
        assert told == "possibly dropped by nftables: chain entry of table inet guard"
        said = broker.program.output
        assert (
            said.count("passes the host's firewall by: datagrams to port 9998 are possibly dropped by") == 1
        )
        doctor = topology.broker.start((PYTHON, "-m", "tempos", "doctor"))
        doctor.wait(60)
        assert "TD416" in doctor.output
        nft(topology, "flush", "ruleset")
        until(lambda: not bypassed(), "it is not told that this is over")
