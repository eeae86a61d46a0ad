"""What is wrong with a platform: a table of checks, and what it says of parts and workflows; no I/O."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tempos.doctor.findings import Check, Severity, Tried

Document = Mapping[str, Any]

_WARN, _FAULT = Severity.WARNING, Severity.FAULT
CHECKS = (
    Check("TD601", "away", _FAULT, means="what it serves stands still, or goes on as it was"),
    Check("TD602", "not in force", _FAULT, means="it is tried again until it is", fix="tempos workflow ls"),
    Check("TD603", "account", _FAULT, means="events are in no account: tell its makers"),
    Check("TD604", "failures", _WARN, means="a function fails, or is too slow for what comes"),
    Check("TD605", "dropped signals", _WARN, means="those signals became no events"),
    Check("TD606", "trigger shut", _FAULT, means="no signal comes in there"),
    Check("TD607", "function", _FAULT, means="events wait for it, or fail"),
    Check("TD608", "step without events", _FAULT, means="it is no member of its group"),
    Check("TD609", "change taken back", _WARN, means="what was asked for is not in force; what was before is",
          fix="tempos workflow ls"),
    Check("TD610", "restarts", _WARN, means="a daemon ended by itself; what it had not published is lost"),
)  # fmt: skip
#: What holds, or does not; all others count what happened.
STATES = frozenset({"TD601", "TD602", "TD603", "TD606", "TD607", "TD608"})
#: What the words of a function do not explain.
_BY_LOAD = frozenset({"queue_full", "too_old", "stopped"})


def of_parts(parts: Iterable[Document], amiss: Mapping[str, str]) -> Iterator[Tried]:
    """What is wrong with daemons, and with what is to be in force in them."""
    known = set()
    for part in parts:
        what = part["name"]
        known.add(what)
        if part["state"] == "away":
            yield Tried("TD601", False, part["why"], what, fix=_look_at(part))
        elif part["state"] == "not as wanted":
            yield Tried("TD602", False, part["why"], what)
    for what, why in amiss.items():
        if what not in known:
            yield Tried("TD602", False, why, what)


def _look_at(part: Document) -> str:
    return f"tail -n 30 {shlex.quote(part['log'])}" if part.get("log") else f"curl -s {part['api']}/v1/health"


def of_workflow(workflow: Document) -> Iterator[Tried]:
    """What is wrong with a workflow. What is told of parts that are away is not judged."""
    name = workflow["name"]
    show = f"tempos workflow show {shlex.quote(name)}"
    logs = f"tempos workflow logs {shlex.quote(name)}"
    for each in workflow["triggers"]:
        if each["away"]:
            continue
        subject = f"{name}, trigger {each['name']}"
        if not each["balanced"]:
            yield Tried("TD603", False, "received is not published + waiting + dropped", subject, fix=show)
        if each["why_not"] or each["state"] not in ("up", ""):
            yield Tried("TD606", False, each["why_not"] or f"it is {each['state']}", subject, fix=show)
        if each["dropped"]:
            cause = f"{_counts(each['dropped'])}, of {each['in']:,}"
            yield Tried("TD605", False, cause, subject, fix=show)
    for each in workflow["steps"]:
        subject = f"{name}, step {each['name']}"
        if each["drift"]:
            yield Tried("TD603", False, f"{each['drift']:+,} events", subject, fix=show)
        for at in each["at"]:
            where = f"{subject} on {at['node']}"
            if at["away"]:
                continue
            if at["fault"]:
                yield Tried("TD607", False, at["fault"], where, fix=logs)
            if at["apart"]:
                yield Tried("TD608", False, at["apart"], where, fix=show)
        if each["failures"]:
            cause = f"{_counts(each['failures'])}, of {each['in']:,}"
            fix = show if set(each["failures"]) <= _BY_LOAD else logs
            yield Tried("TD604", False, cause, subject, fix=fix)


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counted.items())
