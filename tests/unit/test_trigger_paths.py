"""Paths with values: which one a request has, and the topic that its values make."""

from __future__ import annotations

import pytest

from tempos import ConfigError, LocalError
from tempos_trigger import layout
from tempos_trigger.sources.paths import Paths, topic_of


def found(paths: Paths[str], raw: str, path: str | None = None) -> tuple[str | None, list[str]]:
    methods, values = paths.find(raw if path is None else path, raw)
    return methods.get("POST"), values


def test_the_most_exact_path_has_a_request() -> None:
    paths: Paths[str] = Paths()
    for path in ("/s/{id}/t", "/s/*", "/s/7/t", "/{any}/{id}/t", "/*", "/s/{id}/u/*"):
        paths.add(path, ["POST"], path)
    assert found(paths, "/s/7/t") == ("/s/7/t", [])
    assert found(paths, "/s/8/t") == ("/s/{id}/t", ["8"])
    assert found(paths, "/r/8/t") == ("/{any}/{id}/t", ["r", "8"])
    assert found(paths, "/s/8/u/more/of/it") == ("/s/{id}/u/*", ["8"])
    assert found(paths, "/s//t") == ("/s/*", [])
    # No caller gets at a pattern by its own name.
    assert found(paths, "/s/{id}/t") == ("/s/{id}/t", ["{id}"])
    assert found(paths, "/s/a%2Fb/t", "/s/a/b/t") == ("/s/{id}/t", ["a/b"])
    paths.remove("/s/{id}/t")
    assert found(paths, "/s/8/t") == ("/{any}/{id}/t", ["s", "8"])


def test_values_are_levels_of_a_name() -> None:
    assert topic_of("plant/+/press/+", ["line 1", "caf\u00e9"]) == "plant/line 1/press/caf\u00e9"
    for bad in ("", "a/b", "+", "#", "\x00", "x" * 300, "\ufffd\n"):
        with pytest.raises(LocalError):
            topic_of("plant/+", [bad])
    with pytest.raises(LocalError):
        topic_of("+/x", ["$sys"])


@pytest.mark.parametrize(
    ("path", "topic", "words"),
    [
        ("/s/{id}", "s", None),
        ("/s/{id}", "s/+", ""),
        ("/s/{id}", "s/+/+", "allowed: 1 levels that are +"),
        ("/s/{id}", "s/#", "no #"),
        ("/s", "s/+", "a name, no filter"),
        ("/s/{id}/{id}", "s/+/+", "twice"),
        ("/s/x{id}", "s/+", "no whole part"),
        ("/s/{ID}", "s/+", "lower-case"),
        ("/s/{", "s/+", "no whole part"),
    ],
)
def test_what_does_not_fit_is_told(path: str, topic: str, words: str | None) -> None:
    endpoint = {"name": "e", "kind": "http", "topic": topic, "path": path}
    if not words:
        # Values that make no level may well be there.
        assert layout.parse({"endpoint": [endpoint]}, "t").endpoints
        return
    with pytest.raises(ConfigError, match=words.replace("+", r"\+")):
        layout.parse({"endpoint": [endpoint]}, "t")


def test_paths_of_one_shape_are_one() -> None:
    endpoints = [
        {"name": name, "kind": "http", "topic": "s/+", "path": f"/s/{{{name}}}"} for name in ("a", "b")
    ]
    with pytest.raises(ConfigError, match=r"wants POST http://127.0.0.1:8080/s/\{\}"):
        layout.parse({"endpoint": endpoints}, "t")
