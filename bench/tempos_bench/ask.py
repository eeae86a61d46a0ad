"""Requests to a broker's control API from inside its node: `python -m tempos_bench.ask`.

As a program it prints `ready`, takes a JSON line {"method", "path", "body"} at a time and answers with
{"answer"} or {"error"}; it ends when its input ends.
"""

from __future__ import annotations

import http
import http.client
import json
import sys
from typing import Any

from tempos import API_PORT, TemposError

_TIMEOUT = 10


def request(method: str, path: str, body: object = None) -> Any:
    """One request to the broker on this machine; raises :class:`TemposError` for a refusal."""
    connection = http.client.HTTPConnection("127.0.0.1", API_PORT, timeout=_TIMEOUT)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.load(response)
    finally:
        connection.close()
    if response.status >= http.HTTPStatus.BAD_REQUEST:
        raise TemposError(f"{method} {path}: the broker answers {response.status}: {answer}")
    return answer


def main() -> None:
    """Serve requests until the input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"answer": request(asked["method"], asked["path"], asked["body"])}
        except (TemposError, OSError, http.client.HTTPException, ValueError) as error:
            answer = {"error": str(error) or repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
