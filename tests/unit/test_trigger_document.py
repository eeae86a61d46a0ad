"""A trigger's document and file: every fault at once, each with its place and what is allowed."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import ConfigError
from tempos_trigger import layout, registry, settings
from tempos_trigger.sources import remote

KINDS = registry.names()
WORDS = sorted(
    {key for kind in KINDS for key in registry.kind(kind).keys} | {"name", "topic", "kind", "address"}
)
HOOK = {"name": "hook", "kind": "http", "topic": "count", "path": "/count"}


def faults(document: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        layout.parse(document, "deployment")
    return caught.value.problems


def test_every_fault_is_told_at_once() -> None:
    document = {
        "revision": "x" * 65,
        "broker": {"address": "broker.example", "client": "me", "data_port": 7, "control_port": 7},
        "endpoint": [
            {**HOOK, "listn": "127.0.0.1:80", "buffer": 0, "methods": ["POST", "POST"]},
            {"name": "hook", "kind": "htpp"},
            {"name": "other"},
            "what",
            {**HOOK, "name": "a/b", "path": "/a*b", "token": "short"},
        ],
        "brokr": {},
    }
    found = faults(document)
    assert [fault.split(" ")[1] for fault in found] == [
        "revision", "broker.address", "brokr", "broker.key", "broker.control_port", "endpoint[0].listn",
        "endpoint[0].buffer", "endpoint[0].methods[1]", "endpoint[1].name", "endpoint[1].kind",
        "endpoint[2].kind", "endpoint[3]", "endpoint[4].name", "endpoint[4].path", "endpoint[4].token",
    ]  # fmt: skip
    assert "did you mean" in next(fault for fault in found if "endpoint[1].kind" in fault)
    assert not [fault for fault in found if "allowed:" not in fault]
    assert "short" not in "".join(found), "a secret is not shown"


@pytest.mark.parametrize("document", [None, [], "x", 7, {"endpoint": {}}, {"broker": []}])
def test_what_is_no_document_is_refused(document: object) -> None:
    assert all("allowed:" in fault for fault in faults(document))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(KINDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=6),
    max_leaves=30,
)


@given(st.dictionaries(st.sampled_from(["revision", "broker", "endpoint", "x"]), _JSON, max_size=4) | _JSON)
def test_whatever_a_document_holds_is_a_fault_at_worst(document: object) -> None:
    with suppress(ConfigError):
        layout.parse(document, "d")
    if isinstance(document, dict):
        with suppress(ConfigError):
            settings.check({**document, "trigger": document.get("broker", {})}, "d")
        kept = (
            [each for each in document.get("endpoint", []) or [] if isinstance(each, dict)]
            if isinstance(document.get("endpoint"), list)
            else []
        )
        for kind in KINDS:
            # The keys of every kind, with any value.
            with suppress(ConfigError):
                layout.parse({"endpoint": [{**each, "kind": kind} for each in kept]}, "d")


def test_no_two_endpoints_have_the_same_to_themselves() -> None:
    same = faults({"endpoint": [HOOK, {**HOOK, "name": "again", "methods": ["PUT", "POST"]}]})
    assert same == [
        "deployment: endpoint[1] wants POST http://127.0.0.1:8080/count, which is of endpoint[0]; "
        "allowed: each once"
    ]
    fine = [HOOK, {**HOOK, "name": "put", "methods": ["PUT"]}, {**HOOK, "name": "b", "path": "/b"}]
    assert len(layout.parse({"endpoint": fine}, "deployment").endpoints) == 3


def test_a_document_without_a_revision_gets_one_by_its_content() -> None:
    one, same, other = (
        layout.parse({"endpoint": [{**HOOK, "path": path}]}, "deployment") for path in ("/a", "/a", "/b")
    )
    assert one.revision == same.revision != other.revision
    # It is given back with it, as JSON.
    again = layout.parse(json.loads(json.dumps(one.document)), "deployment")
    assert again == one


def test_a_file_is_checked_as_a_whole() -> None:
    with pytest.raises(ConfigError) as caught:
        settings.check(
            {"trigger": {"api": "0.0.0.0:9994", "nam": 1}, "endpoint": [{"name": "x", "kind": "http"}]},
            "t.toml",
        )
    assert [fault.split(" ")[1] for fault in caught.value.problems] == [
        "trigger.nam", "trigger.api", "endpoint[0].topic", "endpoint[0].path",
    ]  # fmt: skip
    assert settings.check({"trigger": {"name": "edge"}}, "t.toml").deployment is None
    told = settings.check({"trigger": {"api": "0.0.0.0:9994", "api_token": "x" * 16}, "broker": {}}, "t.toml")
    assert told.deployment is not None
    assert told.deployment.endpoints == ()
    # Of what is no token nothing more is said.
    for faulty in ({"api_token": "short"}, {"api_token_file": "/nowhere/token"}):
        with pytest.raises(ConfigError) as caught:
            settings.check({"trigger": {"api": "0.0.0.0:9994", **faulty}}, "t.toml")
        assert len(caught.value.problems) == 1


def test_the_example_is_sound_and_has_every_option_of_every_kind() -> None:
    path = Path(__file__).resolve().parents[2] / "config" / "trigger.toml"
    assert settings.load(path).deployment is not None
    text = path.read_text()
    parts = dict.fromkeys(KINDS, "")
    for part in re.split(r"(?m)^#?\[\[endpoint\]\]$", text)[1:]:
        kind = re.search(r'kind = "(\w+)"', part)
        assert kind is not None, part
        parts[kind[1]] += part
    # What both kinds of servers have in common is said once, in words, in front of them.
    words = set(remote.server(1)) | {"body"}
    missing = {
        kind: [
            key
            for key in registry.kind(kind).keys
            if not re.search(rf"(?m)^#?{key} = ", parts[kind])
            and not (kind in ("mqtt", "nats") and key in words)
        ]
        for kind in KINDS
    }
    assert not {kind: keys for kind, keys in missing.items() if keys}
    assert all(f" {word}" in text for word in words)
