"""Links that lose, delay and change what they carry, and schedules on the broker's way out."""

from __future__ import annotations

import sys
from dataclasses import replace

from networks.ground import Ground
from networks.network import FAR, MEMBER, NEAR, PUBLISHER, Build, Network, Spaces, three
from networks.passage import Passage
from tempos_bench.nodes.namespace import Namespace
from tempos_bench.nodes.node import TEXT_FILE

_LIMIT = 30.0
_QUEUES = "numtxqueues 4 numrxqueues 4"


def netem_to_member(what: str) -> Build:
    """The link between broker and member does ``what`` in that direction, in words of `tc netem`."""

    def build(ground: Ground) -> Network:
        spaces = three(ground)
        spaces.publisher_wired()
        relay = _relayed(spaces, spaces.b, "eth1", FAR, spaces.s, "eth0", MEMBER)
        ground.needs_qdisc(relay, "netem")
        return replace(
            spaces.network(), begin=lambda: ground.tc(relay, f"qdisc add dev far root netem {what}")
        )

    return build


def netem_from_publisher(what: str) -> Build:
    """The link between publisher and broker does ``what`` in that direction."""

    def build(ground: Ground) -> Network:
        spaces = three(ground)
        relay = _relayed(spaces, spaces.p, "eth0", PUBLISHER, spaces.b, "eth0", NEAR)
        ground.needs_qdisc(relay, "netem")
        spaces.member_wired()
        return replace(
            spaces.network(), begin=lambda: ground.tc(relay, f"qdisc add dev far root netem {what}")
        )

    return build


def netem_at_broker(what: str) -> Build:
    """The broker's own interface towards the member has such a queue; the fast path passes none."""

    def build(ground: Ground) -> Network:
        spaces = three(ground)
        spaces.publisher_wired()
        spaces.member_wired()
        ground.needs_qdisc(spaces.b, "netem")
        return replace(
            spaces.network(), begin=lambda: ground.tc(spaces.b, f"qdisc add dev eth1 root netem {what}")
        )

    return build


def _relayed(spaces: Spaces, near: Namespace, near_name: str, near_address: str,
             far: Namespace, far_name: str, far_address: str) -> Namespace:  # fmt: skip
    """A link by way of a bridge, so that it is the link that disturbs, and no host; `far` is its way out."""
    ground = spaces.ground
    (relay,) = ground.spaces("relay")
    ground.ip(relay, "link add br0 type bridge", "link set br0 up")
    for port, end, name, address in (
        ("near", near, near_name, near_address),
        ("far", far, far_name, far_address),
    ):
        ground.link(relay, port, end, name)
        ground.ip(relay, f"link set {port} master br0")
        ground.address(end, name, address)
        ground.takes_frames_unseen(relay, port)
    return relay


def scheduled(*words: str) -> Build:
    """`tempos tsn plan --apply` with these words on the broker's interface towards the member.

    However late the timers of this machine are: what they lose must be told.
    """

    def build(ground: Ground) -> Network:
        spaces = three(ground)
        spaces.publisher_wired()
        ground.link(spaces.b, "eth1", spaces.s, "eth0", options=_QUEUES)
        ground.address(spaces.b, "eth1", FAR)
        ground.address(spaces.s, "eth0", MEMBER)
        for kind in ("taprio", "etf"):
            ground.needs_qdisc(spaces.b, kind)
        network = spaces.network()
        passage = Passage(ground, (spaces.b, "eth1"), (spaces.s, "eth0"))

        def begin() -> None:
            command = (sys.executable, "-m", "tempos", "tsn", "plan", "-c", TEXT_FILE, "-i", "eth1",
                       "--link", "1000", "--traffic", "t=2000/s:64", *words, "--apply",
                       "--anyway")  # fmt: skip
            text = '[[topic]]\nid = 1\nname = "t"\nclass = "SQ"\n'
            program = network.broker.start(command, text=text)
            assert program.wait(_LIMIT) == 0, program.output
            passage.begin()

        return replace(network, begin=begin, dropped=passage.dropped)

    return build
