"""Figures and names as the commands show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tempos.model import place_name


def between(at_least: int, at_most: int | None) -> str:
    """A number that is known to lie between two."""
    if at_most is None:
        return f"at least {at_least:,}"
    return f"{at_least:,}" if at_least == at_most else f"{at_least:,} to {at_most:,}"


def counted(number: int, what: str) -> str:
    """So many of something."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def not_delivered(topic: Mapping[str, Any]) -> int:
    """What is lost or was dropped of a topic, by its status. What is over its rate is refused instead."""
    groups = sum(group["lost"] + group["dropped"] for group in topic["groups"])
    before = topic["lost_before"]["at_least"] - topic["refused"].get("over_rate", 0)
    return int(groups + max(0, before) + sum(topic["lost"].values()))


def member_name(member: Mapping[str, Any]) -> str:
    """Where a member is; where a queue waits for one, that it does."""
    return place_name(member["ip"], member["port"])


def group_name(name: str) -> str:
    """The name of a group; the sum of all that nobody is in any more has none that a group can have."""
    return "(former groups)" if name == "~" else name
