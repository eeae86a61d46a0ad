"""What `tempos trace` says of a probe, from what members and broker tell of it."""

from __future__ import annotations

from typing import Any

from tempos import Topic
from tempos.cli.trace import joined, render
from tempos.requests.tracing import Trace

QUIET = Trace(Topic(1, "jobs"), 32, 7, 1, 0, (), 0.001, no_member=False, unread=0)


def told(ip: str, ticketed: int, *, static: bool = False) -> dict[str, Any]:
    """The topic as the control API has it, with one member, which had so many."""
    member = {"ip": ip, "port": 9, "static": static, "ticketed": ticketed}
    return {
        "groups": [{"name": "work", "members": [member]}],
        "route": {"epoch": 1, "groups": [{"name": "work", "members": [f"{ip}:9"]}]},
        "received": ticketed, "passed": {}, "refused": {}, "path": "slow", "reason": "",
    }  # fmt: skip


def line(ip: str, *, static: bool = False) -> str:
    shown = joined(QUIET, told(ip, 0, static=static), told(ip, 1, static=static), "")
    assert shown["whole"] == static
    (found,) = [each for each in render(shown) if each.startswith("  group work: ")]
    return found.removeprefix("  group work: ")


def test_where_no_report_comes_it_says_why() -> None:
    assert line("10.0.0.2") == "it went to 10.0.0.2:9: no report came: lost, static, or an older client"
    assert line("10.0.0.2", static=True) == "it went to 10.0.0.2:9: static, which cannot answer"
    assert line("0.0.1.1") == "nobody is there; it waits for the next member"
