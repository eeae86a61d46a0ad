"""CloudEvents as events: what is taken, what becomes of it, and what is refused with which words."""

from __future__ import annotations

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos_trigger.sources.cloudevents import (
    BATCH,
    STRUCTURED,
    Malformed,
    bodies_of,
    body_of,
    is_batch,
    is_one,
)

CE = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}
EVENT = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
IN_JSON = {"content-type": f"{STRUCTURED}; charset=UTF-8"}


def structured(**fields: object) -> bytes:
    return json.dumps({**EVENT, **fields}).encode()


@pytest.mark.parametrize(
    ("headers", "body", "data"),
    [
        (CE, b"\xff\x00", b"\xff\x00"),
        (IN_JSON, structured(data={"a": "\u00e9"}), '{"a":"\u00e9"}'.encode()),
        (IN_JSON, structured(data="text", datacontenttype="text/plain"), b"text"),
        (IN_JSON, structured(data="text", datacontenttype="application/json"), b'"text"'),
        (IN_JSON, structured(data="text"), b'"text"'),
        (IN_JSON, structured(data_base64=base64.b64encode(b"\xff\x00").decode()), b"\xff\x00"),
        (IN_JSON, structured(data=None, subject=None), b""),
        (IN_JSON, structured(), b""),
    ],
)
def test_data_alone(headers: dict[str, str], body: bytes, data: bytes) -> None:
    assert is_one(headers)
    assert body_of(headers, body, whole=False) == data


@pytest.mark.parametrize(
    ("content_type", "body", "held"),
    [
        ("application/json", b'{"a": 1}', {"data": {"a": 1}, "datacontenttype": "application/json"}),
        ("text/plain", b"hi", {"data": "hi", "datacontenttype": "text/plain"}),
        ("text/plain", b"\xff", {"data_base64": "/w==", "datacontenttype": "text/plain"}),
        ("image/png", b"\x89", {"data_base64": "iQ==", "datacontenttype": "image/png"}),
        ("", b"", {}),
    ],
)
def test_the_whole_event_is_the_same_however_it_came(content_type: str, body: bytes, held: object) -> None:
    headers = {**CE, "ce-subject": "caf%C3%A9", **({"content-type": content_type} if content_type else {})}
    whole = body_of(headers, body, whole=True)
    assert json.loads(whole) == {**EVENT, "subject": "caf\u00e9", **held}  # type: ignore[dict-item]
    # What comes of it is a structured event, with the same data.
    again = body_of(IN_JSON, whole, whole=False)
    assert again == body if content_type != "application/json" else json.loads(again) == json.loads(body)
    assert body_of(IN_JSON, whole, whole=True) == whole


@pytest.mark.parametrize(
    ("headers", "body", "words"),
    [
        ({"ce-id": "1"}, b"", "specversion is missing; the attribute source is missing; the attribute type"),
        ({**CE, "ce-specversion": "0.3"}, b"", "specversion is '0.3'; allowed: '1.0'"),
        ({**CE, "ce-id": ""}, b"", "id is not text"),
        ({**CE, "ce-time": "yesterday"}, b"", "RFC 3339"),
        ({**CE, "ce-my-name": "x"}, b"", "lower-case letters and digits"),
        ({**CE, "ce-subject": "%FF"}, b"", "ce-subject is no UTF-8"),
        ({**CE, "content-type": "application/cloudevents+xml"}, b"[]", "xml; allowed"),
        ({**CE, "content-type": f"{STRUCTURED}; charset=latin1"}, b"{}", "charset is latin1"),
        (IN_JSON, b"\xff", "no UTF-8 at byte 0"),
        (IN_JSON, b"{", "no JSON"),
        (IN_JSON, b"[" * 100_000, "no JSON"),
        (IN_JSON, b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
        (IN_JSON, b'{"a": NaN}', "NaN is none of JSON"),
        (IN_JSON, b"[]", "no JSON object"),
        (IN_JSON, structured(data=1, data_base64="AA=="), "both there"),
        (IN_JSON, structured(data_base64="no!"), "no base64"),
        (IN_JSON, structured(data_base64=7), "no base64"),
        (IN_JSON, structured(data="\ud800"), "surrogate"),
        (IN_JSON, structured(ext={"a": 1}), "neither text nor"),
        (IN_JSON, structured(specversion=1.0), "specversion is"),
    ],
)
def test_what_is_none_is_refused_in_words(headers: dict[str, str], body: bytes, words: str) -> None:
    with pytest.raises(Malformed, match="(?s).*" + words.replace("(", r"\(")):
        body_of(headers, body, whole=False)


@given(
    st.dictionaries(st.sampled_from([*CE, "content-type", "ce-x", "ce-"]), st.text(max_size=20), max_size=6),
    st.one_of(st.binary(max_size=60), st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*EVENT, "data", "data_base64", "time"]), inner, max_size=6),
    ).map(lambda value: json.dumps(value).encode())),
    st.booleans(),
)  # fmt: skip
def test_no_request_does_more_than_be_refused(headers: dict[str, str], body: bytes, whole: bool) -> None:
    for more in ({}, IN_JSON):
        with suppress(Malformed):
            assert isinstance(body_of({**headers, **more}, body, whole=whole), bytes)


def test_a_batch_is_its_events_or_nothing() -> None:
    headers = {"content-type": f"{BATCH}; charset=utf-8"}
    assert is_batch(headers)
    assert not is_batch(IN_JSON)
    events = [{**EVENT, "data": 1}, {**EVENT, "data_base64": "/w=="}, EVENT]
    batch = json.dumps(events).encode()
    assert bodies_of(headers, batch, whole=False) == [b"1", b"\xff", b""]
    assert [json.loads(each) for each in bodies_of(headers, batch, whole=True)] == events
    assert bodies_of(headers, b"[]", whole=False) == []
    with pytest.raises(Malformed) as malformed:
        bodies_of(headers, json.dumps([EVENT, 3, {**EVENT, "id": ""}]).encode(), whole=False)
    assert malformed.value.events == 3
    assert [problem[:8] for problem in malformed.value.problems] == ["event 1:", "event 2:"]
    for bad in (b"{}", b"[", b"\xff"):
        with pytest.raises(Malformed) as malformed:
            bodies_of(headers, bad, whole=False)
        assert malformed.value.events == 1
