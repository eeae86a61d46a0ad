"""The demo's caller: POSTs to a webhook and waits for each answer: `python -m tempos_bench.demo.call`.

Calls come when they are due, so one that is answered late makes no later one look better. Prints a line every
some calls, "called" with how many, and at the end one JSON object: how many were answered as they should be,
what went wrong, and how long answers took.
"""

from __future__ import annotations

import argparse
import http.client
import json
import time
from collections import Counter

from tempos_bench.measure.stats import percentile
from tempos_bench.nodes.patience import patience

#: Calls between two words about how it goes on.
_WORD_EVERY = 20


def call(args: argparse.Namespace) -> dict[str, object]:
    """Call so often; what came of it."""
    connection = http.client.HTTPConnection(args.host, args.port, timeout=patience(args.timeout))
    took: list[float] = []
    wrong: Counter[str] = Counter()
    began = time.perf_counter()
    for number in range(args.calls):
        if number % _WORD_EVERY == 0:
            print(f"called {number}", flush=True)
        due = began + number / args.rate
        if (ahead := due - time.perf_counter()) > 0:
            time.sleep(ahead)
        text = "ab" * (number % 50)
        try:
            connection.request("POST", args.path, json.dumps({"text": text, "pattern": "ab"}))
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            wrong[type(error).__name__] += 1
            connection.close()
            continue
        if response.status != 200:
            wrong[f"status {response.status}"] += 1
        elif json.loads(content)["count"] != number % 50:
            wrong["another answer"] += 1
        else:
            took.append((time.perf_counter() - due) * 1e6)
    connection.close()
    return {
        "calls": args.calls,
        "answered": len(took),
        "wrong": dict(wrong),
        "calls_per_s": args.calls / (time.perf_counter() - began),
        "latency_us": {p: percentile(took, p) for p in (50, 90, 99)} if took else None,
    }


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.demo.call", description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="calls/s")
    parser.add_argument("--timeout", type=float, default=10)
    print(json.dumps(call(parser.parse_args())))


if __name__ == "__main__":
    main()
