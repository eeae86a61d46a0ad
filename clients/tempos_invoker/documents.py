"""What an invoker tells of itself: its status, and the same in numbers for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from tempos import __version__
from tempos_invoker.core.account import CONDITIONS, Account, Balance
from tempos_invoker.core.invocation import StepQueue
from tempos_invoker.failures import Failure
from tempos_invoker.invoker import Invoker
from tempos_invoker.workers.team import Team


def status(invoker: Invoker) -> dict[str, Any]:
    """Everything a person looks for first."""
    deployment = invoker.deployment
    return {
        "name": invoker.settings.name,
        "version": __version__,
        "ready": invoker.ready,
        "uptime": round(time.time() - invoker.started, 3),
        "revision": deployment.revision if deployment else None,
        "fixed": invoker.settings.fixed,
        "broker": str(deployment.broker) if deployment else None,
        "total": total(invoker).document(),
        "functions": list(functions(invoker)),
        "steps": list(steps(invoker)),
        # Steps and teams that are not in the deployment any more and still finish what they have.
        "leaving": len(invoker.accounts.keys() - invoker.targets.keys()) + len(invoker.leaving),
        "errors": {
            "kept": len(invoker.failures.list()),
            "dropped": invoker.failures.dropped,
            "published": invoker.results.counts["errors_published"],
            "unpublished": invoker.results.counts["errors_unpublished"],
        },
        "returned": invoker.way.returned if invoker.way else 0,
        "answers": {
            name: invoker.results.counts[name] for name in ("replies", "error_replies", "replies_failed")
        },
    }


def total(invoker: Invoker) -> Balance:
    """The account of all that was ever accepted."""
    return _sum([*_balances(invoker), Balance(invoker.removed, 0, 0)])


def _balances(invoker: Invoker) -> Iterator[Balance]:
    for team in [*invoker.teams.values(), *invoker.leaving]:
        yield team.balance()


def _sum(balances: Iterable[Balance]) -> Balance:
    account, waiting, running = Account(), 0, 0
    for each in balances:
        account.add(each.account)
        waiting += each.waiting
        running += each.running
    return Balance(account, waiting, running)


def functions(invoker: Invoker) -> Iterator[dict[str, Any]]:
    """Each function in each class."""
    for team, leaving in [
        *((team, False) for team in invoker.teams.values()),
        *((team, True) for team in invoker.leaving),
    ]:
        yield {
            "name": team.function.name,
            "class": team.quality.value,
            "mode": team.function.mode,
            "version": team.function.version,
            "leaving": leaving,
            "ready": team.is_ready,
            "fault": team.fault,
            "concurrency": team.function.concurrency,
            "restarts": team.restarts,
            "workers": team.told(),
            "log_left_out": team.log.left_out,
            "account": team.balance().document(),
        }


def steps(invoker: Invoker) -> Iterator[dict[str, Any]]:
    """Each step of each workflow."""
    sources = {
        id(source.target.queue): source for source in invoker.sources.values() if source.target is not None
    }
    for path, target in invoker.targets.items():
        step = target.queue.step
        source = sources.get(id(target.queue))
        yield {
            "workflow": step.workflow,
            "name": step.name,
            "function": step.function,
            "class": step.quality.value,
            "topic": step.topic,
            "group": step.group,
            "result": step.result,
            "error": step.error,
            "source": source.told() if source is not None else {"joined": False, "reason": "closed"},
            "account": _of_step(invoker, path).document(),
        }


def _of_step(invoker: Invoker, path: tuple[str, str]) -> Balance:
    """The account of a step, in whatever places it has events."""
    account = invoker.accounts[path]
    queues: list[StepQueue] = [
        queue
        for team in [*invoker.teams.values(), *invoker.leaving]
        for queue in team.pool.queues
        if queue.account is account
    ]
    return Balance(account, sum(queue.waiting for queue in queues), sum(queue.running for queue in queues))


def failure(told: Failure, *, body: bool = False) -> dict[str, Any]:
    """A failure as JSON has it; ``body``: with what failed, in hex."""
    envelope = told.envelope()
    content: bytes = envelope.pop("body")
    return {
        "number": told.number,
        **envelope,
        "size": len(content),
        **({"body": content.hex()} if body else {}),
    }


# Prometheus

_ACCOUNT = {
    "accepted_total": "events accepted",
    "succeeded_total": "invocations whose output is where it belongs",
    "failed_total": "invocations that failed, by condition",
    "retries_total": "further attempts of the same invocations",
    "waiting": "events that wait for a worker, or for another attempt",
    "running": "invocations at a worker's hand, or whose output is on its way",
    "drift": "accepted and in no place: 0 unless something is wrong",
}
#: By function and class, and by step.
_SCOPES = ("tempos_function", "tempos_step")
_HELP = {
    **{f"{scope}_{name}": text for scope in _SCOPES for name, text in _ACCOUNT.items()},
    "tempos_function_workers": "workers that serve",
    "tempos_function_restarts_total": "workers that were replaced",
    "tempos_function_log_left_out_total": "lines of a function that were left out",
    "tempos_step_joined": "whether a step is a member of its group",
    "tempos_step_missed_total": "events sent to a step that did not come",
    "tempos_invoker_ready": "whether the whole deployment is in force",
    "tempos_invoker_drift": "the drift of all that was ever accepted",
    "tempos_invoker_errors_published_total": "failures published on error topics",
    "tempos_invoker_errors_unpublished_total": "failures that could not be published",
    "tempos_invoker_answers_total": "answers to requests, by what they were",
    "tempos_invoker_api_refused_total": "API requests that were turned away, by reason",
}


class _Page:
    """Samples by metric, in the order of their help."""

    def __init__(self) -> None:
        self._samples: dict[str, list[str]] = {name: [] for name in _HELP}

    def add(self, name: str, value: float, **labels: str) -> None:
        told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        self._samples[name].append(f"{name}{{{told}}} {value:g}" if told else f"{name} {value:g}")

    def account(self, scope: str, balance: Balance, **labels: str) -> None:
        account = balance.account
        self.add(f"{scope}_accepted_total", account.accepted, **labels)
        self.add(f"{scope}_succeeded_total", account.succeeded, **labels)
        for condition in CONDITIONS:
            self.add(f"{scope}_failed_total", account.failed[condition], **labels, condition=condition)
        self.add(f"{scope}_retries_total", account.retries, **labels)
        self.add(f"{scope}_waiting", balance.waiting, **labels)
        self.add(f"{scope}_running", balance.running, **labels)
        self.add(f"{scope}_drift", account.drift(balance.waiting, balance.running), **labels)

    def text(self) -> str:
        lines = []
        for name, samples in self._samples.items():
            if samples:
                kind = "counter" if name.endswith("_total") else "gauge"
                lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} {kind}", *samples]
        return "\n".join(lines) + "\n"


def metrics(invoker: Invoker) -> str:
    """All numbers in Prometheus's text format: by function and class, by step, and what is not of one."""
    page = _Page()
    for team in _each_once(invoker):
        labels = {"function": team.function.name, "class": team.quality.value}
        page.account("tempos_function", team.balance(), **labels)
        serving = sum(row["state"] == "serving" for row in team.told())
        page.add("tempos_function_workers", serving, **labels)
        page.add("tempos_function_restarts_total", team.restarts, **labels)
    for name, function_log in invoker.logs.items():
        page.add("tempos_function_log_left_out_total", function_log.left_out, function=name)
    for row in steps(invoker):
        path = (row["workflow"], row["name"])
        labels = {"workflow": path[0], "step": path[1]}
        page.account("tempos_step", _of_step(invoker, path), **labels)
        page.add("tempos_step_joined", row["source"]["joined"], **labels)
        page.add("tempos_step_missed_total", row["source"].get("missed", 0), **labels)
    everything = total(invoker)
    page.add("tempos_invoker_drift", everything.account.drift(everything.waiting, everything.running))
    counts = invoker.results.counts
    page.add("tempos_invoker_errors_published_total", counts["errors_published"])
    page.add("tempos_invoker_errors_unpublished_total", counts["errors_unpublished"])
    for name in ("replies", "error_replies", "replies_failed"):
        page.add("tempos_invoker_answers_total", counts[name], answer=name)
    for reason, count in sorted(invoker.api_refused.items()):
        page.add("tempos_invoker_api_refused_total", count, reason=reason)
    page.add("tempos_invoker_ready", invoker.ready)
    return page.text()


def _each_once(invoker: Invoker) -> Iterator[Team]:
    """Teams in force; one that leaves has no sample where another one has its labels."""
    yield from invoker.teams.values()
    seen = set(invoker.teams)
    for team in invoker.leaving:
        key = (team.function.name, team.quality)
        if key not in seen:
            seen.add(key)
            yield team


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
