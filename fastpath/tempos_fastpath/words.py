"""What a topic's choice of the fast path says: by which mode and interfaces, and who is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tempos import InterfaceStatus
from tempos_fastpath.attach import Attachment
from tempos_fastpath.network.facts import Facts
from tempos_fastpath.plan import Plan


def mode_of(attachments: Iterable[Attachment], facts: Facts) -> str:
    """The mode that events are forwarded in; where interfaces differ, which those are; empty: in none."""
    # By a bridge that nothing is plugged into no event comes in.
    up = {
        each.index
        for each in facts.interfaces.values()
        if each.up and (each.kind != "bridge" or facts.ports_of(each.index))
    }
    modes: dict[str, list[str]] = {}
    for each in attachments:
        if each.link is not None and each.ifindex in up:
            modes.setdefault(each.link.mode.value, []).append(each.interface)
    if len(modes) < 2:
        return next(iter(modes), "")
    return f"native (generic on {', '.join(modes['generic'])})"


def why_fast(plan: Plan, mode: str, facts: Facts, unseen: Sequence[InterfaceStatus]) -> str:
    """Why a topic is on the fast path. ``unseen``: where events come in that no program sees."""
    names = {facts.interfaces[index].name for index in plan.interfaces if index in facts.interfaces}
    reason = f"XDP {mode}, leaves by {', '.join(sorted(names))}"
    if plan.why:
        reason += f"; {len(plan.groups)} groups: {plan.why}"
    if left_out := sum(hop.left_out for hop in plan.hops):
        reason += f"; {left_out} of {len(plan.hops)} members left out: they cannot be reached"
    if unseen:
        where = "; ".join(f"{each.name} ({each.reason})" for each in unseen)
        reason += f"; what comes in by these takes the slow path: {where}"
    return reason
