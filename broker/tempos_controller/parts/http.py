"""One API of another daemon: JSON in and out, and two ways in which it can fail.

:class:`Refused` is an answer, :class:`Away` is none. Whether what was asked has been done is known after the
first and not after the second.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tempos import ConfigError, RemoteError
from tempos._api import DAEMON, PROCESS, other_daemon
from tempos.errors import one_line
from tempos_daemon.http_client import Transport

#: Seconds for an answer that takes no work; for one that does: functions are loaded, members drained.
QUICK, LONG = 5.0, 60.0
#: Seconds that a connection is kept for the next question: less than any of the daemons keeps it.
_IDLE = 2.0
#: Why a part is asked no more.
CLOSED = "it is asked no more, for the Controller stops"
#: None of these APIs has TLS; without this each client would read all authorities that the machine trusts.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Refused(RemoteError):
    """A part says no. ``status``: HTTP; ``problems``: each fault by itself, at least one."""

    def __init__(self, what: str, status: int, detail: str, problems: list[str]) -> None:
        super().__init__(f"{what} refuses: {detail}")
        self.what = what
        self.status = status
        self.detail = detail
        self.problems = problems or [detail]


class Away(RemoteError):
    """A part gives no answer, or none that can be understood.

    ``silent``: it let the time for it pass, so it is there and hangs, or the way to it is broken.
    """

    def __init__(self, what: str, why: str, *, silent: bool = False) -> None:
        super().__init__(f"{what} does not answer: {why}")
        self.what = what
        self.why = why
        self.silent = silent


class Another(Away):
    """What answers there is not the part."""


@dataclass(frozen=True, slots=True)
class Own:
    """A daemon that is kept alive here. ``process``: its number while it runs; ``key``: sets its address."""

    process: Callable[[], int | None]
    key: str


class Remote:
    """The API at ``host:port`` of what is called ``what``, the kind of daemon first.

    ``token`` gives its token, each time anew; ``own``: only this process is it, whoever answers there.
    """

    def __init__(
        self, what: str, address: tuple[str, int], token: Callable[[], str], own: Own | None = None
    ) -> None:
        self.what = what
        self.address = address
        self._token = token
        self._own = own
        self.is_closed = False
        # The proxies of whoever started the Controller are for the outside.
        self._client = httpx.AsyncClient(
            base_url=f"http://{address[0]}:{address[1]}",
            timeout=QUICK,
            transport=Transport(trust_env=False, verify=_NO_TLS, limits=httpx.Limits(keepalive_expiry=_IDLE)),
            trust_env=False,
        )

    async def ask(
        self, method: str, path: str, body: Any = None, *, content: bytes | None = None, wait: float = QUICK
    ) -> Any:
        """The answer; raises :class:`Refused` or :class:`Away`."""
        if self.is_closed:
            raise Away(self.what, CLOSED)
        try:
            token = self._token()
        except ConfigError as error:
            raise Away(self.what, one_line(error)) from error
        try:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            response = await self._client.request(
                method, path, json=body, content=content, headers=headers,
                timeout=httpx.Timeout(wait, connect=QUICK),
            )  # fmt: skip
            found = response.json() if response.content else None
        except httpx.HTTPError as error:
            silent = isinstance(error, httpx.TimeoutException)
            raise Away(self.what, str(error) or type(error).__name__, silent=silent) from error
        except ValueError as error:
            raise Away(self.what, f"its answer is no JSON: {error}") from error
        except Exception as error:
            if self.is_closed:
                # In the middle of it, of which the client says whatever comes.
                raise Away(self.what, CLOSED) from error
            raise
        self._check_who(response.headers)
        if response.status_code < 300:
            return found
        detail, problems = f"{response.status_code} {response.reason_phrase}", []
        if isinstance(found, dict) and isinstance(found.get("detail"), str):
            detail = found["detail"]
            problems = [each for each in found.get("problems") or () if isinstance(each, str)]
        raise Refused(self.what, response.status_code, detail, problems)

    def _check_who(self, headers: Mapping[str, str]) -> None:
        daemon, (host, port) = self.what.partition(" ")[0], self.address
        if (other := other_daemon(f"http://{host}:{port}", headers.get(DAEMON), daemon)) is not None:
            raise Another(self.what, str(other))
        process = headers.get(PROCESS)
        if self._own is not None and process is not None and process != str(self._own.process()):
            raise Another(
                self.what,
                f"another {daemon} answers at {host}:{port}, process {one_line(process)}, not the one "
                f"that is started here: end that one, or set {self._own.key} to another address",
            )

    async def close(self) -> None:
        """Ask no more; what waits for an answer gets none."""
        self.is_closed = True
        await self._client.aclose()
