"""Kinds that other packages bring, sound and broken, are told like our own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tempos import ConfigError
from tempos_trigger import layout, registry
from tempos_trigger.kind import GROUP

SOUND = """
from tempos_daemon import kinds
from tempos_daemon.schema import Key

class Bell:
    keys = {"rings": Key(kinds.whole(1, 9))}
    def check(self, table, faults): pass
    def claims(self, spec): return ["the bell"]
    def make(self, spec, sink): raise AssertionError
"""
BROKEN = "import no_such_library_for_bells\n"
HALF = "class Bell:\n    keys = {}\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Puts a package that brings the kind ``bell`` where Python finds it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(module: str, source: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        about = tmp_path / f"{module}-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
        (about / "entry_points.txt").write_text(f"[{GROUP}]\nbell = {module}:Bell\n")
        registry._points.cache_clear()
        registry.kind.cache_clear()

    yield install
    registry._points.cache_clear()
    registry.kind.cache_clear()
    for name in ("bell_sound", "bell_broken", "bell_half"):
        sys.modules.pop(name, None)


def bell(**options: object) -> dict[str, object]:
    return {"endpoint": [{"name": "b", "kind": "bell", "topic": "t", **options}]}


def test_a_kind_of_another_package(installed: Callable[[str, str], None]) -> None:
    installed("bell_sound", SOUND)
    assert {"bell", "http"} <= set(registry.names())
    deployment = layout.parse(bell(rings=3), "d")
    assert deployment.endpoints[0].options == {"rings": 3}
    with pytest.raises(ConfigError, match="rings is 10; allowed: an integer from 1 to 9"):
        layout.parse(bell(rings=10), "d")


@pytest.mark.parametrize(
    ("module", "source", "words"),
    [
        ("bell_broken", BROKEN, "needs no_such_library_for_bells, and that is not installed"),
        ("bell_half", HALF, "is no kind of trigger: it lacks check, claims, make"),
    ],
)
def test_one_that_cannot_be_used(
    installed: Callable[[str, str], None], module: str, source: str, words: str
) -> None:
    installed(module, source)
    with pytest.raises(ConfigError, match=words):
        layout.parse(bell(), "d")


def test_every_kind_of_ours_has_its_extra() -> None:
    extras = set(metadata.metadata("tempos").get_all("Provides-Extra") or ())
    assert set(registry.EXTRAS.values()) <= extras
    ours = {
        point.name for point in metadata.entry_points(group=GROUP) if point.value.startswith("tempos_trigger")
    }
    assert ours - registry.EXTRAS.keys() == {"http", "udp", "tcp"}
