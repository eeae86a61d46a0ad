"""What an invoker counts, for Prometheus: by function and class, by step, and what is not of one."""

from __future__ import annotations

from collections.abc import Iterator

from tempos_daemon.metrics import Sample, counter, gauge, sample
from tempos_invoker.core.account import CONDITIONS, Balance
from tempos_invoker.documents import of_step, steps, total
from tempos_invoker.invoker import Invoker
from tempos_invoker.workers.team import Team

_FUNCTION, _STEP = ("function", "class"), ("workflow", "step")


class _Accounts:
    """The families of an account; ``of`` is the scope in their names."""

    def __init__(self, of: str, *labels: str) -> None:
        self._accepted = counter(f"{of}_accepted_total", "events accepted", *labels)
        self._succeeded = counter(
            f"{of}_succeeded_total", "invocations whose output is where it belongs", *labels
        )
        self._failed = counter(
            f"{of}_failed_total", "invocations that failed, by condition", *labels, "condition"
        )
        self._retries = counter(f"{of}_retries_total", "further attempts of the same invocations", *labels)
        self._waiting = gauge(f"{of}_waiting", "events that wait for a worker or another attempt", *labels)
        self._running = gauge(
            f"{of}_running", "invocations at a worker's hand, or whose output is on its way", *labels
        )
        self._drift = gauge(f"{of}_drift", "accepted and in no place: 0 unless something is wrong", *labels)

    def samples(self, balance: Balance, *labels: str) -> Iterator[Sample]:
        account = balance.account
        yield sample(self._accepted, account.accepted, *labels)
        yield sample(self._succeeded, account.succeeded, *labels)
        for condition in CONDITIONS:
            yield sample(self._failed, account.failed[condition], *labels, condition)
        yield sample(self._retries, account.retries, *labels)
        yield sample(self._waiting, balance.waiting, *labels)
        yield sample(self._running, balance.running, *labels)
        yield sample(self._drift, account.drift(balance.waiting, balance.running), *labels)


_OF_FUNCTION, _OF_STEP = _Accounts("tempos_function", *_FUNCTION), _Accounts("tempos_step", *_STEP)
WORKERS = gauge("tempos_function_workers", "workers that serve", *_FUNCTION)
RESTARTS = counter("tempos_function_restarts_total", "workers that were replaced", *_FUNCTION)
LEFT_OUT = counter("tempos_function_log_left_out_total", "lines of a function that were left out", "function")
JOINED = gauge("tempos_step_joined", "whether a step is a member of its group", *_STEP)
MISSED = counter("tempos_step_missed_total", "events sent to a step that did not come", *_STEP)
DRIFT = gauge("tempos_invoker_drift", "the drift of all that was ever accepted")
PUBLISHED = counter("tempos_invoker_errors_published_total", "failures published on error topics")
UNPUBLISHED = counter("tempos_invoker_errors_unpublished_total", "failures that could not be published")
ANSWERS = counter("tempos_invoker_answers_total", "answers to requests, by what they were", "answer")
API_REFUSED = counter("tempos_invoker_api_refused_total", "API requests that were turned away", "reason")
STRAYS = gauge("tempos_invoker_strays", "processes that functions have started and left behind")
BROKER = gauge("tempos_invoker_broker_there", "0 if the broker does not answer or takes no results")
READY = gauge("tempos_invoker_ready", "whether the whole deployment is in force")


def samples(invoker: Invoker) -> Iterator[Sample]:
    """All metrics of an invoker."""
    for team in _each_once(invoker):
        labels = (team.function.name, team.quality.value)
        yield from _OF_FUNCTION.samples(team.balance(), *labels)
        yield sample(WORKERS, sum(row["state"] == "serving" for row in team.told()), *labels)
        yield sample(RESTARTS, team.restarts, *labels)
    for name, function_log in invoker.logs.items():
        yield sample(LEFT_OUT, function_log.left_out, name)
    for row in steps(invoker):
        path = (row["workflow"], row["name"])
        yield from _OF_STEP.samples(of_step(invoker, path), *path)
        yield sample(JOINED, row["source"]["joined"], *path)
        yield sample(MISSED, row["source"].get("missed", 0), *path)
    everything = total(invoker)
    yield sample(DRIFT, everything.account.drift(everything.waiting, everything.running))
    counts = invoker.results.counts
    yield sample(PUBLISHED, counts["errors_published"])
    yield sample(UNPUBLISHED, counts["errors_unpublished"])
    for name in ("replies", "error_replies", "replies_failed"):
        yield sample(ANSWERS, counts[name], name)
    for reason, count in sorted(invoker.api_refused.items()):
        yield sample(API_REFUSED, count, reason)
    yield sample(STRAYS, len(invoker.strays.alive()))
    yield sample(BROKER, not invoker.broker_fault)
    yield sample(READY, invoker.ready)


def _each_once(invoker: Invoker) -> Iterator[Team]:
    """Teams in force; one that leaves has no sample where another one has its labels."""
    yield from invoker.teams.values()
    seen = set(invoker.teams)
    for team in invoker.leaving:
        key = (team.function.name, team.quality)
        if key not in seen:
            seen.add(key)
            yield team
