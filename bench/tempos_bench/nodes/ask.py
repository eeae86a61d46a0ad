"""What the benchmark asks of a node: called inside a namespace, `python -m tempos_bench.nodes.ask` on a host.

The program prints `ready`, then answers JSON lines on standard input, {"ask": question, "given": {...}}, with
{"answer"} or {"error"}; it ends with its input. Both ways answer from one table (:data:`QUESTIONS`).
"""

from __future__ import annotations

import http
import http.client
import json
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempos import API_PORT, TemposError
from tempos_bench.nodes import drops, installed, interfaces, machine, process, stamps
from tempos_bench.nodes.patience import patience

#: Seconds for one answer: of 60,000 topics on a machine that others use, too, a reload takes some 20.
_TIMEOUT = patience(60.0)


def request(method: str, path: str, body: object = None, port: int = API_PORT) -> Any:
    """One request to the broker on this machine; raises :class:`TemposError` for a refusal."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    try:
        answer = json.loads(content)
    except ValueError as error:
        said = content[:200].decode(errors="replace")
        raise TemposError(
            f"{method} {path}: the broker answers {response.status}, no JSON: {said!r}"
        ) from error
    if response.status >= http.HTTPStatus.BAD_REQUEST:
        raise TemposError(f"{method} {path}: the broker answers {response.status}: {answer}")
    return answer


def fetch(path: str, port: int = API_PORT) -> int:
    """Read a page of the broker on this machine to its end, whatever it is; how many bytes it has."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        size = 0
        while piece := response.read(1 << 20):
            size += len(piece)
    finally:
        connection.close()
    if response.status >= http.HTTPStatus.BAD_REQUEST:
        raise TemposError(f"GET {path}: the broker answers {response.status}")
    return size


def takes_connections(address: str, port: int) -> bool:
    """Whether a server listens there."""
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def forwards() -> bool:
    """Whether the kernel forwards IPv4 here."""
    return Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"


@dataclass(frozen=True, slots=True)
class Question:
    """What answers a question, and what a plan takes for its answer; both take what is given with it."""

    work: Callable[..., Any]
    planned: Callable[..., Any]


def _always(value: Any) -> Callable[..., Any]:
    return lambda **given: value


#: Every question that there is; what each needs and gives stands with its function.
QUESTIONS = {
    "request": Question(request, _always({})),
    "fetch": Question(fetch, _always(1)),
    "interface": Question(interfaces.describe, _always({})),
    "interface of": Question(interfaces.carrying, _always("asked of the host")),
    "machine": Question(machine.describe, _always({})),
    "dropped": Question(drops.dropped, _always({})),
    "XDP program": Question(interfaces.program, _always(1)),
    "clock": Question(stamps.wall_ns, _always(0)),
    "exchanges": Question(stamps.exchanges, _always([[0, 0, 0, 0]])),
    "forwards": Question(forwards, _always(True)),
    "used": Question(process.used, lambda pids, packets=False, families=False: [0.0] * (len(pids) + packets)),
    "peak": Question(process.peak, _always(0)),
    "forget peak": Question(process.forget_peak, _always(None)),
    "executable": Question(installed.executable, lambda program: program),
    "distribution": Question(installed.distribution, _always("asked of the host")),
    "version": Question(installed.version, _always("asked of the host")),
    "takes connections": Question(takes_connections, _always(True)),
    "held": Question(process.held, _always({"resident": 1, "private": 1, "descriptors": 1, "maps": 1})),
    "hurry": Question(process.hurry, _always(None)),
    "programs": Question(process.programs, _always({"1": [1, 1, 1]})),
}


def answer(question: str, given: Mapping[str, Any]) -> Any:
    """The answer to one question, here and now."""
    return QUESTIONS[question].work(**given)


def main() -> None:
    """Answer until the input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            told = {"answer": answer(asked["ask"], asked["given"])}
        except (TemposError, OSError, http.client.HTTPException, ValueError) as error:
            told = {"error": str(error) or repr(error)}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
