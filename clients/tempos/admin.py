"""Topics made, changed and removed from Python, through the broker's control API.

    admin = Admin()
    await admin.add_topic("plant/line1/press", quality=Quality.SQ, rate=1000)
    await admin.remove_topic("plant/line1/press", drain=True)

Over HTTP, as `tempos ctl` does it: these are an operator's orders, with the token and the log that all others
have, and their answers are longer than what an unsigned datagram may be answered with. A connection for each
request, on asyncio's streams; nothing beyond the standard library.

The options of a topic are those of the broker's file, and None is their default: ``quality`` (``class`` in
the file), ``priority``, ``framing``, ``path``, ``sources``, ``rate``, ``burst``, ``overflow``, ``fanout``,
``unheard`` and ``members`` (``member``), a list of mappings with ``ip`` and, as needed, ``port``, ``group``,
``mac`` and ``source``; of foreign topics ``ports``, ``pick`` and ``group``, a list of mappings with ``name``
and, as needed, ``sources``, ``every``, ``source``, ``down_after``, ``probe`` and ``probe_port``. What they
may be, and which there are, the broker says: all faults at once, in :attr:`tempos.ApiRefused.problems`.
"""

from __future__ import annotations

import asyncio
import enum
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from tempos._api import DAEMON, DEFAULT, no_answer, other_daemon, refusal
from tempos._awaitables import in_time
from tempos.errors import LocalError, RemoteError
from tempos.model import (
    Fanout,
    Framing,
    GroupOptions,
    Overflow,
    Path,
    PathPolicy,
    Pick,
    Prefer,
    Quality,
    Topic,
    Unheard,
)
from tempos.session.place import api_at, usual_api

#: Seconds for an answer, beside what a request itself has the broker wait.
TIMEOUT = 10.0
#: Seconds that the removal of a topic waits for what its members confirm.
DRAIN_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic of the broker as it is now.

    ``origin``: "file", or "run-time" for one that an order made. ``durable``: whether it is there again after
    a restart of the broker. ``path``, ``reason``: which path serves it, and why. ``members``: how many.
    """

    topic: Topic
    origin: str
    durable: bool
    path: Path | None
    reason: str
    epoch: int
    members: int


@dataclass(frozen=True, slots=True)
class TopicRemoved:
    """A topic that is no more: how many members it had.

    ``ticketed``, ``delivered``: datagrams for those of them with a lease, and what they have confirmed of it.
    ``account``: the account that it ended with, as `tempos ledger` has it.
    """

    name: str
    id: int
    members: int
    ticketed: int
    delivered: int
    account: Mapping[str, Any]


class Admin:
    """An operator of the broker whose control API is at ``url``.

    ``url``: by default that of ``$TEMPOS_API``, else on the host of ``$TEMPOS_BROKER``, else
    this machine's; HOST:PORT will do. ``token``: by default ``$TEMPOS_TOKEN``.
    Every call raises :class:`tempos.ApiRefused` for what the broker refuses, and another
    :class:`tempos.RemoteError` where there is no answer.
    """

    def __init__(self, url: str | None = None, *, token: str | None = None, timeout: float = TIMEOUT) -> None:
        self.url = (api_at(url) if url else usual_api()).rstrip("/")
        parts = urlsplit(self.url)
        try:
            port = parts.port
        except ValueError as error:
            raise LocalError(f"{self.url!r} is no address of a control API: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise LocalError(f"{self.url!r} is no address of a control API: such as {DEFAULT}")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host = parts.hostname
        self._port = port or (443 if self._tls else 80)
        self._netloc = parts.netloc.rpartition("@")[2]
        self._base = parts.path
        self._token = os.environ.get("TEMPOS_TOKEN", "") if token is None else token
        self._timeout = timeout

    async def topics(self) -> list[TopicInfo]:
        """Every topic."""
        return [self._info(each) for each in await self._ask("GET", "/v1/topics")]

    async def topic(self, name: str) -> TopicInfo:
        """One topic."""
        return self._info(await self._ask("GET", _address(name)))

    async def add_topic(self, name: str, *, topic_id: int | None = None, **options: Any) -> TopicInfo:
        """Make a topic; it is served when this returns. ``topic_id`` None: the broker gives a free one."""
        body = {"name": name, "id": topic_id, **_body(options)}
        return self._info(await self._ask("POST", "/v1/topics", body))

    async def set_topic(self, name: str, **options: Any) -> TopicInfo:
        """Change options of a topic that was made at run time; None: back to the default."""
        return self._info(await self._ask("PATCH", _address(name), _body(options)))

    async def remove_topic(
        self, name: str, *, drain: bool = False, patience: float = DRAIN_PATIENCE
    ) -> TopicRemoved:
        """Remove a topic that was made at run time.

        One that has members only with ``drain``: they get what is on its way, and are told; for what they
        confirm of it the broker waits ``patience`` seconds.
        """
        query = urlencode({"drain": "true" if drain else "false", "patience_s": patience})
        answer = await self._ask("DELETE", f"{_address(name)}?{query}", wait=patience if drain else 0)
        try:
            return TopicRemoved(
                answer["removed"], answer["id"], answer["members"],
                answer["ticketed"], answer["delivered"], answer["account"],
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise self._strange(error) from error

    # --- HTTP -------------------------------------------------------------------------------

    async def _ask(self, method: str, path: str, body: object = None, *, wait: float = 0) -> Any:
        try:
            answer = await in_time(self._exchange(method, path, body), self._timeout + wait)
        except asyncio.TimeoutError:
            raise no_answer(self.url, f"within {self._timeout + wait:g} s") from None
        except (OSError, asyncio.IncompleteReadError) as error:
            raise no_answer(self.url, str(error) or repr(error)) from error
        head, _, content = answer.partition(b"\r\n\r\n")
        words = head.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
            raise no_answer(self.url, "what answers there is no HTTP server")
        status, reason = int(words[1]), words[2] if len(words) > 2 else ""
        if (other := other_daemon(self.url, _header(head, DAEMON))) is not None:
            raise other
        if status >= 300:
            raise refusal(self.url + path, status, reason, content)
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RemoteError(f"the answer of {self.url}{path} is not whole, or no JSON: {error}") from error

    async def _exchange(self, method: str, path: str, body: object) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        try:
            content = b"" if body is None else json.dumps(body).encode()
            # Of this version of HTTP an answer ends with its connection: no chunks to put together.
            lines = [f"{method} {self._base}{path} HTTP/1.0", f"Host: {self._netloc}"]
            if self._token:
                lines.append(f"Authorization: Bearer {self._token}")
            if body is not None:
                lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
            try:
                writer.write("\r\n".join((*lines, "", "")).encode("latin-1") + content)
            except UnicodeEncodeError as error:
                raise LocalError(f"the token has characters that none can have: {error.reason}") from None
            return await reader.read()
        finally:
            writer.close()

    def _strange(self, error: Exception) -> RemoteError:
        return RemoteError(f"the answer of {self.url} is not of this version: {error!r}")

    def _info(self, told: Any) -> TopicInfo:
        try:
            topic = Topic(
                told["id"], told["name"], Quality(told["class"]), told["priority"], Framing(told["framing"]),
                PathPolicy(told["policy"]), tuple(told["sources"]), told["rate"], told["burst"],
                Overflow(told["overflow"]), Fanout(told["fanout"]),
                Unheard(told["unheard"]), *_journal(told["journal"]), retain=bool(told["retain"]),
                repair=_repair(told), ports=tuple(told["ports"]), redeliver=bool(told.get("redeliver")),
                pick=Pick(told["pick"]), prefer=Prefer(told.get("prefer", "any")),
                groups=tuple(map(_options, told.get("group_options", ()))),
            )  # fmt: skip
            return TopicInfo(
                topic, told["origin"], told["durable"], Path(told["path"]) if told["path"] else None,
                told["reason"], told["epoch"], sum(len(group["members"]) for group in told["groups"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise self._strange(error) from error


def _options(told: Any) -> GroupOptions:
    return GroupOptions(
        told["name"], tuple(told["sources"]), told["every"], told["source"] == "keep",
        told["down_after"], told["probe"], told["probe_port"],
    )  # fmt: skip


def _journal(told: Any) -> tuple[int, int]:
    return (told["events"], told["bytes"]) if told else (0, 0)


def _repair(told: Any) -> bool | None:
    return told.get("repair") is True if told["journal"] else None


def _header(head: bytes, name: str) -> str | None:
    """What a header of an answer says."""
    fields = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    wanted = name.lower().encode()
    return next((value.strip().decode("latin-1") for key, _, value in fields if key.lower() == wanted), None)


def _address(name: str) -> str:
    return f"/v1/topics/{quote(name, safe='')}"


def _body(options: Mapping[str, Any]) -> dict[str, Any]:
    names = {"quality": "class", "members": "member"}
    return {names.get(key, key): _plain(value) for key, value in options.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return [_plain(each) for each in value] if isinstance(value, (tuple, list)) else value
