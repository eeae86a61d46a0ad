"""etcd 3.4 and later as a registry, by its JSON gateway: one HTTP client for calls, another for watches.

What is read and written goes by consensus; whatever an endpoint cannot say is asked of the next. Of a watch:

* It is begun with ``hasleader``, so that a member without a majority ends it, and it is begun anew, at
  another endpoint, when nothing was heard of it for a while: only both find every way for it to be silent.
* It goes on behind the last *whole* revision that came, never behind what headers say: they run ahead.
* That it was cancelled, or refused, stands in a body that stays open, with status 200.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import random
import ssl
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx

from tempos_broker.fleet.registry import (
    AT_ONCE,
    Away,
    Change,
    Compacted,
    Entry,
    LeaseGone,
    Listed,
    Write,
    Written,
)
from tempos_daemon.http_client import Transport

if importlib.util.find_spec("sniffio") is None:
    # httpx asks for it with every request; to search all paths in vain takes as long as half of one.
    sys.modules["sniffio"] = None  # type: ignore[assignment]

#: Seconds for an answer, and without a word of a watch until it is begun anew.
ANSWER, QUIET = 2.5, 3.5
#: Seconds between two attempts, at random.
PAUSE = (0.05, 0.3)
#: The shortest lease that etcd gives, seconds.
SHORTEST = 2
#: Codes of gRPC in errors.
_NOT_FOUND, _UNAUTHENTICATED = 5, 16
_NO_USER = "user name is empty"


class _Refused(Exception):
    """What etcd says no with."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Etcd:
    """``endpoints``: URLs; ``prefix``: what all keys begin with. ``verify``: how TLS is checked.

    ``answer``, ``quiet``: seconds for an answer, and without a word of a watch.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        prefix: str,
        *,
        user: str = "",
        password: str = "",
        verify: ssl.SSLContext | bool = True,
        answer: float = ANSWER,
        quiet: float = QUIET,
    ) -> None:
        self._endpoints = [each.rstrip("/") for each in endpoints]
        self._prefix = prefix.encode()
        self._user, self._password = user, password
        self._quiet = quiet
        self._at = 0
        #: By endpoint: a token is one member's, and forgotten by it after a while.
        self._tokens: dict[str, str] = {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=16)
        # Proxies are for the way out; a store is on the way in.
        transport = Transport(verify=verify, limits=limits, trust_env=False)
        self._http = httpx.AsyncClient(timeout=answer, transport=transport, trust_env=False)

    async def close(self) -> None:
        await self._http.aclose()

    # --- calls ------------------------------------------------------------------------------

    async def grant(self, seconds: float) -> int:
        answer = await self._call("lease/grant", {"TTL": max(SHORTEST, round(seconds))})
        return int(answer["ID"])

    async def keep_alive(self, lease: int) -> float:
        answer = await self._call("lease/keepalive", {"ID": lease})
        left = int(answer.get("result", {}).get("TTL", 0))
        if left <= 0:
            raise LeaseGone(f"etcd's lease {lease:x} has ended")
        return float(left)

    async def revoke(self, lease: int) -> None:
        try:
            await self._call("lease/revoke", {"ID": lease})
        except LeaseGone:
            return

    async def write(self, writes: Sequence[Write], lease: int = 0, *, together: bool = False) -> Written:
        written = Written(0, [], {})
        for begin in range(0, len(writes), AT_ONCE):
            some = list({each.key: each for each in writes[begin : begin + AT_ONCE]}.values())
            done = await self._write(some, lease)
            if done.refused and len(some) > 1 and not together:
                # One that is not as expected keeps the others out of force.
                for each in some:
                    written = _together(written, await self._write([each], lease))
            else:
                written = _together(written, done)
        return written

    async def _write(self, writes: Sequence[Write], lease: int) -> Written:
        expected = [each for each in writes if each.expect is not None]
        answer = await self._call("kv/txn", {
            "compare": [
                {"key": self._key(each.key), "target": "MOD", "result": "EQUAL", "mod_revision": each.expect}
                for each in expected
            ],
            "success": [self._request(each, lease) for each in writes],
            "failure": [{"request_range": {"key": self._key(each.key)}} for each in writes],
        })  # fmt: skip
        revision = int(answer["header"]["revision"])
        if answer.get("succeeded"):
            return Written(revision, [], dict.fromkeys((each.key for each in writes), revision))
        # An answer that was lost may have been of the first attempt: what was wanted holds already.
        there = [each.get("response_range", {}).get("kvs", ()) for each in answer.get("responses", ())]
        values = [_decoded(kvs[0].get("value")) if kvs else None for kvs in there]
        if len(values) == len(writes) and all(
            each.value == value for each, value in zip(writes, values, strict=True)
        ):
            at = {
                each.key: int(kvs[0]["mod_revision"]) if kvs else revision
                for each, kvs in zip(writes, there, strict=True)
            }
            return Written(revision, [], at)
        return Written(revision, list(writes), {})

    def _request(self, write: Write, lease: int) -> dict[str, Any]:
        key = self._key(write.key)
        if write.value is None:
            return {"request_delete_range": {"key": key}}
        return {"request_put": {"key": key, "value": _encoded(write.value), "lease": lease}}

    async def list(self) -> Listed:
        answer = await self._call("kv/range", self._all())
        return Listed(
            int(answer["header"]["revision"]),
            {
                self._short(kv["key"]): Entry(_decoded(kv.get("value")), int(kv["mod_revision"]))
                for kv in answer.get("kvs", ())
            },
        )

    async def _call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask each endpoint once, beginning with the one that answered last; they all know the same."""
        last, first = "", self._at
        for at in range(first, first + len(self._endpoints)):
            # Others are under way, and each moves on by itself: together they would pass one over, or none.
            endpoint = self._endpoints[at % len(self._endpoints)]
            try:
                answer = await self._ask(endpoint, path, body)
            except _Refused as error:
                if error.code == _NOT_FOUND:
                    raise LeaseGone(str(error)) from error
                last = f"{endpoint}: {error}"
            except (httpx.HTTPError, OSError, ValueError, KeyError) as error:
                last = f"{endpoint}: {type(error).__name__} {error}".rstrip()
            else:
                self._at = at
                return answer
        self._at = first + 1
        raise Away(f"etcd does not answer ({last})")

    async def _ask(self, endpoint: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        for again in (False, True):
            headers = await self._authorization(endpoint, renew=again)
            response = await self._http.post(f"{endpoint}/v3/{path}", json=body, headers=headers)
            try:
                answer = response.json()
            except ValueError:
                answer = {"error": f"status {response.status_code}: {response.text[:200].strip()}"}
            error = answer.get("error") if isinstance(answer, dict) else "no JSON object"
            if not error:
                return dict(answer)
            refused = _refusal(answer, error)
            if again or not self._user or not _lacks_token(refused):
                raise refused
        raise AssertionError("two attempts at most")

    async def _authorization(self, endpoint: str, *, renew: bool) -> dict[str, str]:
        if not self._user:
            return {}
        if renew or endpoint not in self._tokens:
            self._tokens.pop(endpoint, None)
            body = {"name": self._user, "password": self._password}
            # Without a token: an old one would be refused before the password is looked at.
            response = await self._http.post(f"{endpoint}/v3/auth/authenticate", json=body)
            answer = response.json()
            if error := answer.get("error"):
                raise _refusal(answer, error)
            self._tokens[endpoint] = answer["token"]
        return {"Authorization": self._tokens[endpoint]}

    # --- watching ---------------------------------------------------------------------------

    async def watch(self, after: int) -> AsyncIterator[Sequence[Change]]:
        last, failed, why, at = after, 0, "", self._at
        while failed < 2 * len(self._endpoints):
            endpoint = self._endpoints[at % len(self._endpoints)]
            try:
                async for changes, upto in self._stream(endpoint, last + 1):
                    failed, last = 0, max(last, upto)
                    yield changes
            except httpx.ReadTimeout:
                why = f"{endpoint}: quiet for {self._quiet:g} s"
                # Nothing happened, or we do not hear of it: who is asked for it next will know.
                yield ()
            except _Refused as error:
                why = f"{endpoint}: {error}"
                self._tokens.pop(endpoint, None)
                failed += 1
            except (httpx.HTTPError, OSError, ValueError, KeyError) as error:
                why = f"{endpoint}: {type(error).__name__} {error}".rstrip()
                failed += 1
            else:
                why = f"{endpoint}: the watch has ended"
                failed += 1
            at += 1
            await asyncio.sleep(random.uniform(*PAUSE) if failed else 0)
        raise Away(f"etcd cannot be watched ({why})")

    async def _stream(self, endpoint: str, first: int) -> AsyncIterator[tuple[Sequence[Change], int]]:
        """Changes from a revision on, whole revisions at a time, and up to which one that is all."""
        body = {"create_request": {
            **self._all(), "start_revision": first, "progress_notify": True, "fragment": True,
        }}  # fmt: skip
        headers = {**await self._authorization(endpoint, renew=False), "Grpc-Metadata-hasleader": "true"}
        timeout = httpx.Timeout(ANSWER, read=self._quiet)
        parts: list[Change] = []
        watched: object = None
        async with self._http.stream(
            "POST", f"{endpoint}/v3/watch", json=body, headers=headers, timeout=timeout
        ) as response:
            async for line in _lines(response.aiter_raw()):
                message = json.loads(line)
                if error := message.get("error"):
                    raise _refusal(message, error)
                result = message["result"]
                if result.get("canceled"):
                    if (compacted := int(result.get("compact_revision", 0))) > 0:
                        raise Compacted(f"etcd has no revision {first} any more, {compacted} is its first")
                    raise _Refused(0, result.get("cancel_reason") or "the watch was cancelled")
                if result.get("created"):
                    watched = result.get("watch_id", 0)
                    yield (), first - 1
                    continue
                parts += [self._change(event) for event in result.get("events", ())]
                if result.get("fragment"):
                    continue
                if parts:
                    # Those that came before are passed over; etcd promises none.
                    new = [each for each in parts if each.revision >= first]
                    parts = []
                    yield new, max((each.revision for each in new), default=first - 1)
                elif result.get("watch_id", 0) == watched:
                    yield (), int(result["header"].get("revision", 0))

    def _change(self, event: Mapping[str, Any]) -> Change:
        kv = event["kv"]
        value = None if event.get("type") == "DELETE" else _decoded(kv.get("value"))
        return Change(self._short(kv["key"]), value, int(kv["mod_revision"]))

    # --- keys -------------------------------------------------------------------------------

    def _key(self, key: str) -> str:
        return _encoded(self._prefix + key.encode())

    def _short(self, key: str) -> str:
        return _decoded(key)[len(self._prefix) :].decode()

    def _all(self) -> dict[str, str]:
        end = self._prefix[:-1] + bytes((self._prefix[-1] + 1,))
        return {"key": _encoded(self._prefix), "range_end": _encoded(end)}


def context(ca: str, certificate: str, key: str) -> ssl.SSLContext:
    """TLS towards etcd: ``ca`` vouches for it ("": the system's), ``certificate`` and ``key`` for us."""
    made = ssl.create_default_context(cafile=ca or None)
    if certificate:
        made.load_cert_chain(certificate, key or None)
    return made


def _together(one: Written, next_: Written) -> Written:
    return Written(next_.revision, [*one.refused, *next_.refused], {**one.at, **next_.at})


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines of any length: one revision may be a megabyte."""
    rest: list[bytes] = []
    async for piece in pieces:
        first, *others = piece.split(b"\n")
        rest.append(first)
        for other in others:
            line = b"".join(rest)
            rest = [other]
            if line.strip():
                yield line


def _refusal(answer: Mapping[str, Any], error: object) -> _Refused:
    if isinstance(error, Mapping):
        return _Refused(int(error.get("grpc_code", 0)), str(error.get("message", error)))
    return _Refused(int(answer.get("code", 0)), str(answer.get("message") or error))


def _lacks_token(refused: _Refused) -> bool:
    return refused.code == _UNAUTHENTICATED or _NO_USER in str(refused)


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _decoded(value: str | None) -> bytes:
    return base64.b64decode(value or "")
