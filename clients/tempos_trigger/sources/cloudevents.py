"""CloudEvents 1.0 in HTTP requests: binary, structured and batched mode, checked, and as bodies of events.

Sources: CloudEvents core specification 1.0.2, its HTTP protocol binding (sections 3.1 to 3.3) and its JSON
event and batch formats. A batch is taken whole or, if anything in it is no CloudEvent, not at all. What
becomes of the attributes is the endpoint's choice, and the same for all modes:

    body = "data"    the event's body is the data alone, byte by byte; the attributes are checked, and gone
    body = "whole"   the event's body is the event in structured mode, JSON, however it came

Bytes in, bytes or :class:`Malformed` out.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
_PREFIX = "ce-"
_REQUIRED = ("specversion", "id", "source", "type")
_VERSION = "1.0"
_NAME = re.compile(r"[a-z0-9]+")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_CHARSET = "the charset is {}; allowed: utf-8"
#: Attributes of a structured event that hold its data.
_DATA = ("data", "data_base64")


class Malformed(ValueError):
    """It says that it is a CloudEvent and is none. ``problems``: every fault; ``events`` are lost by it."""

    def __init__(self, problems: list[str], events: int = 1) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.events = events


def media_type(content_type: str) -> tuple[str, str]:
    """The type and the charset of a Content-Type, both in lower case; "" for what it does not say."""
    kind, *parameters = content_type.lower().split(";")
    charset = ""
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "charset":
            charset = value.strip().strip('"')
    return kind.strip(), charset


def is_one(headers: Mapping[str, str]) -> bool:
    """Whether a request says that it is a CloudEvent. Names of headers are in lower case."""
    kind, _ = media_type(headers.get("content-type", ""))
    return kind.startswith("application/cloudevents") or any(
        f"{_PREFIX}{name}" in headers for name in _REQUIRED
    )


def is_batch(headers: Mapping[str, str]) -> bool:
    """Whether a request says that it is a batch of CloudEvents."""
    return media_type(headers.get("content-type", ""))[0] == BATCH


def bodies_of(headers: Mapping[str, str], body: bytes, *, whole: bool) -> list[bytes]:
    """The bodies of the events that a batch becomes, perhaps none; raises :class:`Malformed`."""
    _, charset = media_type(headers.get("content-type", ""))
    if charset not in ("", "utf-8", "utf8"):
        raise Malformed([_CHARSET.format(charset)])
    batch = _json(body)
    if not isinstance(batch, list):
        raise Malformed(["the body is no JSON array"])
    bodies, problems = [], []
    for number, event in enumerate(batch):
        try:
            data = _structured(event)
            bodies.append(_dumped(event) if whole else data)
        except Malformed as error:
            problems += [f"event {number}: {problem}" for problem in error.problems]
    if problems:
        raise Malformed(problems, len(batch))
    return bodies


def body_of(headers: Mapping[str, str], body: bytes, *, whole: bool) -> bytes:
    """The body of the event that a request becomes; raises :class:`Malformed`."""
    kind, charset = media_type(headers.get("content-type", ""))
    if not kind.startswith("application/cloudevents"):
        return _binary(headers, body, whole=whole)
    if kind != STRUCTURED:
        raise Malformed([f"Content-Type is {kind}; allowed: {STRUCTURED}, {BATCH}, or ce- headers"])
    if charset not in ("", "utf-8", "utf8"):
        raise Malformed([_CHARSET.format(charset)])
    data = _structured(_json(body))
    return body if whole else data


def _structured(event: Any) -> bytes:
    """The data of an event in structured mode; raises :class:`Malformed`."""
    if not isinstance(event, dict):
        raise Malformed(["the body is no JSON object"])
    problems = _faults({name: value for name, value in event.items() if name not in _DATA})
    if {"data", "data_base64"} <= event.keys():
        problems.append("data and data_base64 are both there; allowed: one of them")
    data = b""
    if not problems:
        try:
            data = _data_of(event)
        except Malformed as error:
            problems = error.problems
    if problems:
        raise Malformed(problems)
    return data


def _binary(headers: Mapping[str, str], body: bytes, *, whole: bool) -> bytes:
    attributes: dict[str, Any] = {}
    problems = []
    for name, value in headers.items():
        if name.startswith(_PREFIX):
            try:
                attributes[name[len(_PREFIX) :]] = urllib.parse.unquote(value, errors="strict")
            except UnicodeDecodeError:
                problems.append(f"{name} is no UTF-8, percent-encoded")
    problems += _faults(attributes)
    if problems:
        raise Malformed(problems)
    if not whole:
        return body
    content_type = headers.get("content-type", "")
    if content_type:
        attributes["datacontenttype"] = content_type
    if not body:
        return _dumped(attributes)
    if _is_json(content_type):
        return _dumped({**attributes, "data": _json(body)})
    if media_type(content_type)[0].startswith("text/"):
        try:
            return _dumped({**attributes, "data": body.decode()})
        except UnicodeDecodeError:
            pass
    return _dumped({**attributes, "data_base64": base64.b64encode(body).decode()})


def _faults(attributes: Mapping[str, Any]) -> list[str]:
    problems = [f"the attribute {name} is missing" for name in _REQUIRED if name not in attributes]
    for name, value in attributes.items():
        if not _NAME.fullmatch(name):
            problems.append(
                f"the attribute {name[:40]!r} has a name that is not lower-case letters and digits"
            )
        elif value is None and name not in _REQUIRED:
            continue
        elif not isinstance(value, (str, bool, int)):
            problems.append(f"the attribute {name} is neither text nor a number nor true or false")
        elif name in _REQUIRED and (not isinstance(value, str) or not value):
            problems.append(f"the attribute {name} is not text of at least one character")
        elif name == "specversion" and value != _VERSION:
            problems.append(f"specversion is {str(value)[:40]!r}; allowed: {_VERSION!r}")
        elif name == "time" and not (isinstance(value, str) and _TIME.fullmatch(value)):
            problems.append(f"time is {str(value)[:40]!r}; allowed: as RFC 3339 has it")
    return problems


def _data_of(event: Mapping[str, Any]) -> bytes:
    """The data of a structured event as bytes."""
    if "data_base64" in event:
        try:
            return base64.b64decode(event["data_base64"], validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise Malformed(["data_base64 is no base64"]) from None
    if event.get("data") is None:
        return b""
    content_type = event.get("datacontenttype")
    if isinstance(event["data"], str) and isinstance(content_type, str) and not _is_json(content_type):
        return _encoded(event["data"])
    return _dumped(event["data"])


def _is_json(content_type: str) -> bool:
    kind, _ = media_type(content_type)
    # Without a type, data is JSON (core specification, datacontenttype).
    return kind in ("", "application/json", "text/json") or kind.endswith("+json")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise Malformed([f"the body is no UTF-8 at byte {error.start}"]) from None
    except (ValueError, RecursionError) as error:
        raise Malformed([f"the body is no JSON: {str(error)[:200]}"]) from None


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is none of JSON")


def _dumped(value: Any) -> bytes:
    return _encoded(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Malformed(["the text has half of a surrogate pair, which no UTF-8 can be"]) from None
