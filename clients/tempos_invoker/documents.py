"""What an invoker tells of itself: its status."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from tempos import __version__
from tempos_invoker.core.account import Account, Balance
from tempos_invoker.core.invocation import StepQueue
from tempos_invoker.failures import Failure
from tempos_invoker.invoker import Invoker


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
        "broker_fault": invoker.broker_fault,
        "scheduling": invoker.real_time.told(),
        "total": total(invoker).document(),
        "functions": list(functions(invoker)),
        "steps": list(steps(invoker)),
        # Processes that functions have started and left behind.
        "strays": len(invoker.strays.alive()),
        # Steps and teams that are not in the deployment any more and still finish what they have, and changes
        # after which results are still on their way to where they went before.
        "leaving": len(invoker.accounts.keys() - invoker.targets.keys())
        + len(invoker.leaving)
        + invoker.turning,
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
            "account": of_step(invoker, path).document(),
        }


def of_step(invoker: Invoker, path: tuple[str, str]) -> Balance:
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
