"""The broker's control API as commands use it: one class, JSON in and out, errors in words.

Only the standard library. A token, where the broker asks for one, comes from a file or from the
environment, never from the command line, which others on the machine can read.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempos._abi import API_PORT
from tempos._api import DAEMON, DEFAULT, no_answer, other_daemon, refusal
from tempos.auth import open_to_others
from tempos.errors import ApiRefused, LocalError, RemoteError
from tempos.session.place import Place, api_at, usual_api

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from tempos.cli.extensions import Subparsers

#: Carries out a command; its exit code.
Run = Callable[[argparse.Namespace], int]

#: Seconds for an answer; for one that tells of every topic, of which there may be tens of thousands.
TIMEOUT, PATIENCE = 5.0, 30.0
_OF_EVERY_TOPIC = frozenset(
    {"/v1/status", "/v1/topics", "/v1/ledger", "/v1/paths", "/v1/routes", "/v1/options"}
)
_FILE_HELP = "a file that holds the API's token (default: $TEMPOS_TOKEN holds the token itself)"
#: Whose a token is, and where that stands.
_TOKENS = {
    "broker": "broker.api_token of its configuration",
    "invoker": "invoker.api_token of its configuration (of one that a Controller started: "
    "tokens/invoker-NODE in the Controller's state folder)",
    "Controller": "controller.api_token of its file, or else tokens/controller in its state folder",
}


def add_api(
    parser: argparse.ArgumentParser,
    what: str = "the broker's control API",
    variable: str = "TEMPOS_API",
    default: str = DEFAULT,
) -> None:
    """Add ``--api`` and ``--token-file``: of ``what``, which an environment ``variable`` may name."""
    usual = variable == "TEMPOS_API"
    on_host = f", else port {API_PORT} of the broker's host, $TEMPOS_BROKER" if usual else ""
    otherwise = f"${variable}{on_host}"
    told = f"{what}: a URL, or HOST:PORT (default: {otherwise}, else {default})"
    # The broker's is worked out when it is asked: what is wrong with a variable is told then.
    told_by_environment = None if usual else os.environ.get(variable, default)
    parser.add_argument("--api", metavar="URL", default=told_by_environment, help=told)
    parser.add_argument("--token-file", metavar="FILE", help=_FILE_HELP)
    parser.set_defaults(fail=parser.error, usual_port=int(default.rpartition(":")[2]))


def add_api_again(parser: argparse.ArgumentParser) -> None:
    """Take the same options behind an action, too, whose command has them by :func:`add_api`."""
    parser.add_argument("--api", metavar="URL", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--token-file", metavar="FILE", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def orders_of(
    actions: Subparsers, name: str, text: str, description: str, examples: str
) -> Callable[[str, str, Run], argparse.ArgumentParser]:
    """An action of several orders; what adds one, with what it says of itself and what carries it out."""
    parser = actions.add_parser(
        name, help=text, description=description, epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    orders = parser.add_subparsers(metavar="ORDER", dest="order", required=True)

    def add(name: str, text: str, run: Run) -> argparse.ArgumentParser:
        order = orders.add_parser(name, help=text, description=text)
        order.add_argument("--json", action="store_true", help="print the answer of the API")
        add_api_again(order)
        order.set_defaults(run=run)
        return order

    return add


class Api:
    """The control API at a URL. Every call raises :class:`RemoteError` with what to do about it."""

    def __init__(
        self,
        url: str,
        token: str = "",
        timeout: float = TIMEOUT,
        whose: str = "broker",
        *,
        given: str = "",
        ways: str = "--token-file FILE or $TEMPOS_TOKEN",
    ) -> None:
        """``given``: where the token was found, and ``ways`` to give another one, for people."""
        self.url = url.rstrip("/")
        self._given, self._ways = given, ways
        self._whose = whose
        self._token = token
        self._timeout = timeout

    @classmethod
    def of(
        cls,
        options: argparse.Namespace,
        timeout: float = TIMEOUT,
        whose: str = "broker",
        made: Callable[[str], Path | None] = lambda url: None,
    ) -> Api:
        """As the options of :func:`add_api` say; raises :class:`LocalError` for an unreadable token.

        ``made``: the file with the token for the API at a URL that was made on this machine, if one was.
        """
        try:
            # Of a command that asks a broker for other things as well, that broker's.
            asked = getattr(options, "broker", None)
            place = asked if isinstance(asked, Place) else None
            url = api_at(options.api, options.usual_port) if options.api else usual_api(place)
        except LocalError as error:
            options.fail(f"--api: {error}")
        if not url.startswith(("http://", "https://")):
            options.fail(f"--api {url!r} is no http URL")
        # What is said of the API later says where it was asked.
        options.api = url
        token, given = os.environ.get("TEMPOS_TOKEN", ""), "in $TEMPOS_TOKEN"
        if options.token_file is not None:
            given = f"in {options.token_file}"
            try:
                token = Path(options.token_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise LocalError(f"the token in {options.token_file} cannot be read: {error}") from error
            if why := open_to_others(options.token_file):
                print(f"tempos: the token file {options.token_file} {why}", file=sys.stderr)
        elif not token and (file := made(url)) is not None:
            # Another user's; the API will say what is missing.
            with contextlib.suppress(OSError, UnicodeDecodeError):
                token, given = file.read_text(encoding="utf-8").strip(), f"in {file}"
        return cls(url, token, timeout, whose, given=given)

    @property
    def headers(self) -> dict[str, str]:
        """What every request has."""
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def check(self, path: str, answer: HTTPResponse) -> None:
        """Raise :class:`RemoteError` where the answer to what was asked at ``path`` is none to go by."""
        self._check(answer.headers.get(DAEMON))
        if answer.status != 200:
            raise self._refused(self.url + path, answer.status, answer.reason, answer.read())

    def no_answer(self, path: str, why: object) -> RemoteError:
        """The error that ``path`` has none."""
        return no_answer(self.url + path, why, self._whose)

    def _check(self, answers: str | None) -> None:
        """Raise :class:`RemoteError` where it is another daemon that answers."""
        if (other := other_daemon(self.url, answers, self._whose)) is not None:
            raise other

    def _refused(self, url: str, status: int, reason: str, body: bytes) -> ApiRefused:
        if status != HTTPStatus.UNAUTHORIZED:
            return refusal(url, status, reason, body, self._whose)
        wants = f"does not take the token {self._given}".rstrip() if self._token else "asks for a token"
        who = f"the {self._whose} at {self.url}"
        return ApiRefused(status, f"{who} {wants}: give that of {_TOKENS[self._whose]}, by {self._ways}")

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def post(self, path: str, body: object = None) -> Any:
        return self._ask("POST", path, body)

    def patch(self, path: str, body: object) -> Any:
        return self._ask("PATCH", path, body)

    def put(self, path: str, body: object) -> Any:
        """``body``: bytes go as they are."""
        return self._ask("PUT", path, body)

    def send(self, path: str, body: bytes) -> bytes:
        """Post bytes; gives the bytes of the answer."""
        answer = self._ask("POST", path, body, plain=True)
        assert isinstance(answer, bytes), "asked for so"
        return answer

    def delete(self, path: str) -> Any:
        return self._ask("DELETE", path)

    def _ask(self, method: str, path: str, body: object = None, *, plain: bool = False) -> Any:
        # These cost more to import than most commands take to run.
        import urllib.error
        import urllib.request
        from http.client import HTTPConnection, HTTPException

        patience = self._timeout
        if path in _OF_EVERY_TOPIC and patience >= TIMEOUT:
            patience = max(patience, PATIENCE)

        class Connection(HTTPConnection):
            """One that is there within the time for any answer, and may then take more of it."""

            def connect(self) -> None:
                super().connect()
                self.sock.settimeout(patience)

        class Handler(urllib.request.HTTPHandler):
            def http_open(self, request: urllib.request.Request) -> Any:
                return self.do_open(Connection, request)

        url = self.url + path
        headers = self.headers
        data = None
        if method in ("POST", "PATCH", "PUT"):
            is_bytes = isinstance(body, bytes)
            headers["Content-Type"] = "application/octet-stream" if is_bytes else "application/json"
            data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - http only
        except ValueError as error:
            raise LocalError(f"--api {self.url!r} is no http URL: {error}") from error
        try:
            # The token is for this address alone: no proxy of the environment, no redirect.
            way = urllib.request.OpenerDirector()
            for each in (
                Handler,
                urllib.request.HTTPSHandler,
                urllib.request.HTTPDefaultErrorHandler,
                urllib.request.HTTPErrorProcessor,
            ):
                way.add_handler(each())
            with way.open(request, timeout=self._timeout) as answer:
                self._check(answer.headers.get(DAEMON))
                return answer.read() if plain else json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                self._check(error.headers.get(DAEMON))
                raise self._refused(url, error.code, error.reason, error.read()) from error
        except (OSError, HTTPException) as error:
            why = error.reason if isinstance(error, urllib.error.URLError) else error
            raise no_answer(url, why, self._whose) from error
        except (ValueError, RecursionError) as error:
            raise RemoteError(f"the answer of {url} is not JSON: {error}") from error
