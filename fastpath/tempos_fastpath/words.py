"""What a topic's choice of the fast path says: by which mode and interfaces, and who is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tempos import FastPathStatus, InterfaceStatus, Path, PathChoice
from tempos_fastpath.attachment import Attachment
from tempos_fastpath.network.facts import Facts
from tempos_fastpath.plan import Plan


class Choices:
    """What is said of topics that are on the fast path: one object for those that follow one like them."""

    def __init__(self) -> None:
        self._mode: tuple[object, str] = (), ""
        self._last: tuple[object, ...] = ()
        self._choice = PathChoice(Path.FAST, "")

    def of(
        self,
        plan: Plan,
        made_of: object,
        attachments: Iterable[Attachment],
        status: Callable[[], FastPathStatus],
        facts: Facts,
        unseen: Sequence[InterfaceStatus],
    ) -> PathChoice:
        """``made_of``: what plans are made of now; the mode stays the same as long as that does."""
        if self._mode[0] != made_of:
            self._mode = made_of, mode_of(attachments, facts) or status().mode
        # Compared by what they are: plans that are alike have the same groups.
        said = plan.groups, plan.why, self._mode, facts, unseen
        if len(said) != len(self._last) or any(a is not b for a, b in zip(said, self._last, strict=True)):
            self._last = said
            self._choice = PathChoice(Path.FAST, why_fast(plan, self._mode[1], facts, unseen))
        return self._choice


def status_of(
    attachments: Sequence[Attachment],
    interfaces: tuple[InterfaceStatus, ...],
    note: str,
    lacks: tuple[str, ...],
    passed_by: tuple[str, ...],
    following: bool,
) -> FastPathStatus:
    """The weakest mode of the interfaces that carry the program, and how each came to its own."""
    modes = [each.mode for each in interfaces if each.mode != "none"]
    if not modes:
        return FastPathStatus("none", why_none(attachments), interfaces)
    reason = ", ".join(f"{each.name}: {each.mode} ({each.reason})" for each in interfaces)
    mode = "generic" if "generic" in modes else "native"
    return FastPathStatus(mode, f"{reason}{note}", interfaces, lacks, passed_by, following)


def with_generic(
    unseen: tuple[InterfaceStatus, ...], generic: Iterable[str], no_copies: str
) -> tuple[InterfaceStatus, ...]:
    """With those in generic mode where nothing copies for several groups; ``no_copies``: why, if so."""
    return unseen + tuple(InterfaceStatus(name, "none", no_copies) for name in generic if no_copies)


def interfaces_of(
    attachments: Sequence[Attachment], facts: Facts, unseen: Sequence[InterfaceStatus]
) -> tuple[InterfaceStatus, ...]:
    """How each interface is served: those that were to have a program, then others that events come in by."""
    found = tuple(each.status(facts.interfaces.keys()) for each in attachments)
    names = {each.name for each in found}
    return found + tuple(each for each in unseen if each.name not in names)


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


def why_none(attachments: Sequence[Attachment]) -> str:
    """Why no interface carries a program."""
    if any(each.ifindex for each in attachments):
        return "no interface is left"
    named = ", ".join(each.interface for each in attachments)
    return f"waits for an interface: {named or 'one with a listen address'}"


def why_fast(plan: Plan, mode: str, facts: Facts, unseen: Sequence[InterfaceStatus]) -> str:
    """Why a topic is on the fast path. ``unseen``: where events come in that no program sees."""
    used = {hop.ifindex for hop in plan.hops if not hop.left_out} or plan.interfaces
    names = {facts.interfaces[index].name for index in used if index in facts.interfaces}
    reason = f"XDP {mode}, leaves by {', '.join(sorted(names))}"
    if plan.why:
        reason += f"; {len(plan.groups)} groups: {plan.why}"
    if left_out := sum(hop.left_out for hop in plan.hops):
        reason += f"; {left_out} of {len(plan.hops)} members left out: they cannot be reached"
        reason += f" ({plan.nowhere})" if plan.nowhere else ""
    if unseen:
        where = "; ".join(f"{each.name} ({each.reason})" for each in unseen)
        reason += f"; what comes in by these takes the slow path: {where}"
    return reason
