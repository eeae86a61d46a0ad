"""What daemons tell over HTTP, asked of them as any client would, without one that runs."""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from manual.text import code, table
from tempos import REASON_TEXTS
from tempos.cli.extensions import OWN
from tempos.doctor import areas
from tempos_broker.api.application import application as broker_api
from tempos_controller.api import application as controller_api
from tempos_controller.watch.findings import CHECKS
from tempos_daemon.metrics import Family
from tempos_invoker.api import application as invoker_api
from tempos_invoker.core.account import CONDITIONS
from tempos_trigger.api import application as trigger_api


class _Nobody:
    """Stands where a daemon would: nothing is asked of it, for descriptions need no daemon."""

    def __getattr__(self, name: str) -> Any:
        if name == "api_refused":
            return Counter()
        return _Nobody()

    def __call__(self, *_: object, **__: object) -> Any:
        return _Nobody()


def descriptions() -> dict[str, dict[str, Any]]:
    """The OpenAPI document of each daemon."""
    anyone: Any = _Nobody()
    apps = {
        "broker": (9996, broker_api(anyone, anyone)),
        "invoker": (9995, invoker_api(anyone)),
        "trigger": (9994, trigger_api(anyone)),
        "controller": (9993, controller_api(anyone, anyone, "", Counter())),
    }
    return {name: asyncio.run(_openapi(app)) | {"port": port} for name, (port, app) in apps.items()}


async def _openapi(app: Any) -> dict[str, Any]:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.get("/openapi.json")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


def http_page() -> str:
    """Reference of what can be asked over HTTP."""
    out = [
        "# HTTP APIs\n",
        "Each daemon describes its own at `/openapi.json`; this page is made from those documents. "
        "Errors are problems (RFC 9457). Where a token is set, each request brings "
        "`Authorization: Bearer TOKEN`.\n",
    ]
    for name, document in descriptions().items():
        out.append(f"## {name}\n\nBy default at `http://127.0.0.1:{document['port']}`.\n")
        rows = [
            (code(f"{method.upper()} {path}"), each.get("summary", ""), _arguments(each), _answers(each))
            for path, methods in document["paths"].items()
            for method, each in methods.items()
        ]
        out.append(table(("request", "what it is for", "arguments", "answers"), rows))
    return "\n".join(out)


def _arguments(operation: Mapping[str, Any]) -> str:
    told = [
        f"`{each['name']}`{'' if each.get('required') else ' (optional)'}"
        + (f": {each['description']}" if each.get("description") else "")
        for each in operation.get("parameters", ())
    ]
    kinds = operation.get("requestBody", {}).get("content", {})
    return "; ".join([*told, *(f"body: `{kind}`" for kind in kinds)])


def _answers(operation: Mapping[str, Any]) -> str:
    return ", ".join(operation["responses"])


def metrics_page() -> str:
    """Every family of metrics, by the daemon that has it."""
    out = [
        "# Metrics\n",
        "For Prometheus, at `/metrics` of each API. Beside these there are the client's own figures of the "
        "process (`process_resident_memory_bytes` and so on). `config/prometheus` has a "
        "configuration and alerts, "
        "`config/grafana` a dashboard.\n",
    ]
    modules = {
        "broker": "tempos_broker.api.metrics",
        "trigger": "tempos_trigger.metrics",
        "invoker": "tempos_invoker.metrics",
        "controller": "tempos_controller.metrics",
    }
    for name, module in modules.items():
        found = {each.name: each for each in _families(vars(importlib.import_module(module)))}
        rows = [
            (code(each.name), each.kind.value.lower(), each.means, ", ".join(map(code, each.labels)))
            for each in found.values()
        ]
        out += [f"## {name}\n", table(("name", "type", "what it is", "labels"), rows)]
    return "\n".join(out)


def _families(names: Mapping[str, Any]) -> Iterator[Family]:
    for value in names.values():
        if isinstance(value, Family):
            yield value
        elif type(value).__name__ == "_Accounts":
            yield from _families(vars(value))


def reasons_page() -> str:
    """Why events go where they go, and why invocations fail."""
    return "\n".join(
        [
            "# Reasons\n",
            "Every exit of either path is counted under one of these, by topic: in `tempos status`, "
            "`tempos ledger`, the API and the metrics. Only `no_egress` and `over_rate` lose an "
            "event on the fast path; all its other "
            "reasons but `forwarded` leave the packet to the kernel, where the slow path takes it.\n",
            table(
                ("reason", "what it means"), [(code(each.label), text) for each, text in REASON_TEXTS.items()]
            ),
            "## Invocations that failed\n",
            "Of functions, in the account of an invoker, on error topics, and in replies.\n",
            table(("condition", "what it means"), [(code(name), text) for name, text in CONDITIONS.items()]),
        ]
    )


def codes_page() -> str:
    """What the doctor finds, by code."""
    out = [
        "# Codes of the doctor\n",
        "What `tempos doctor` looks at, and at the end the Controller's live page. A code is given once and "
        "never again for something else. *Lacking* is how bad it is not to have it; a finding says besides "
        "what the cause is on this machine, and the command that mends it.\n",
    ]
    tables = {area.name: area.checks for area in areas()}
    for name, checks in {**tables, "the Controller's live page": CHECKS}.items():
        rows = [
            (code(check.code), check.name, check.lacking.value, check.means, code(check.fix))
            for check in checks
        ]
        out += [f"## {name}\n", table(("code", "what", "lacking", "what follows", "what helps"), rows)]
    return "\n".join(out)


def extras_table() -> str:
    """Which extra brings which command."""
    return table(
        ("command", "what it does", "extra"),
        [(code(f"tempos {name}"), text, code(f"tempos[{extra}]")) for name, (text, extra) in OWN.items()],
    )
