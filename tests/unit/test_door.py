"""Whose requests a daemon's API takes, by the name that they ask for: none that a page could have made."""

from __future__ import annotations

import asyncio
import http.server
import logging
import socket
import threading
from collections import Counter
from typing import Any

import pytest

from tempos.cli.api import Api
from tempos.errors import RemoteError
from tempos_daemon.door import Door


def status(headers: dict[str, str], token: str = "") -> tuple[int, Counter[str]]:
    refused: Counter[str] = Counter()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    door = Door(
        app, token, refused, daemon="Controller", set_by="api_token", logger=logging.getLogger("test")
    )
    scope = {
        "type": "http", "method": "GET", "path": "/v1/status", "client": ("127.0.0.1", 9),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    }  # fmt: skip
    said: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    asyncio.run(door(scope, receive, send))
    return said[0]["status"], refused


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:9996", "10.0.0.7", "[::1]:9996", "localhost", "LOCALHOST:1", "a.localhost", "localhost.",
     socket.gethostname(), ""],
)  # fmt: skip
def test_who_asks_by_address_or_by_our_own_name_is_heard(host: str) -> None:
    assert status({"host": host}) == (200, Counter())


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:9996", "localhost.evil.example", "evil.example.",
     "[evil.example]", "xlocalhost", "127.0.0.1@evil.example", "\xff\n",
     "[::1].evil.example", "[::1]evil", "localhost:80@evil.example", ":9996", "::1",
     "127.0.0.1, evil.example"],
)  # fmt: skip
def test_who_asks_by_a_foreign_name_is_misdirected(host: str) -> None:
    assert status({"host": host}) == (421, Counter({"other host": 1}))


@pytest.mark.parametrize(
    ("site", "mode", "heard"),
    [("none", "navigate", True), ("same-origin", "cors", True), ("cross-site", "navigate", True),
     ("cross-site", "no-cors", False), ("same-site", "no-cors", False)],
)  # fmt: skip
def test_a_page_elsewhere_has_no_browser_ask_but_a_link_may_lead_here(
    site: str, mode: str, heard: bool
) -> None:
    refused = Counter() if heard else Counter({"web page": 1})
    assert status({"sec-fetch-site": site, "sec-fetch-mode": mode}) == (200 if heard else 403, refused)


def test_a_token_is_worth_more_than_a_name() -> None:
    named = {"host": "broker.example"}
    assert status(named, "secret")[0] == 401
    assert status({**named, "authorization": "Bearer secret"}, "secret")[0] == 200


class _Elsewhere(http.server.BaseHTTPRequestHandler):
    seen: list[str] = []  # noqa: RUF012 - of this test alone

    def do_GET(self) -> None:
        self.seen.append(f"{self.path} {self.headers.get('Authorization')}")
        self.send_response(302)
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/elsewhere")  # type: ignore[misc,str-bytes-safe]
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


def test_commands_send_the_token_to_the_api_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """To no proxy that the environment names, and to nobody an answer leads to."""
    server = http.server.HTTPServer(("127.0.0.1", 0), _Elsewhere)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, url)
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            port = nobody.getsockname()[1]
        with pytest.raises(RemoteError):
            Api(f"http://127.0.0.1:{port}", "secret").get("/v1/status")
        assert not _Elsewhere.seen
        with pytest.raises(RemoteError):
            Api(url, "secret").get("/v1/status")
        assert _Elsewhere.seen == ["/v1/status Bearer secret"]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
