"""Names and filters: MQTT's own examples as a table, and properties against a slow reading of its words."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.filters import BAD_FILTERS, BAD_NAMES, MATCHES

from tempos import LocalError, names

LEVELS = ("", "a", "b", "$s", "+", "#")
#: All filters of up to three of these levels, and all names.
FILTERS = [
    each
    for count in (1, 2, 3)
    for levels in itertools.product(LEVELS, repeat=count)
    if names.filter_fault(each := "/".join(levels)) is None
]
NAMES = [
    each
    for count in (1, 2, 3, 4)
    for levels in itertools.product(("", "a", "b", "c", "$s"), repeat=count)
    if (each := "/".join(levels))
]


def says_mqtt(wanted: list[str], name: list[str], *, first: bool = True) -> bool:
    """MQTT 5, 4.7.1 to 4.7.2, word by word."""
    if not wanted or not name:
        return not name and (not wanted or wanted == ["#"])
    if first and name[0].startswith("$") and wanted[0] in ("+", "#"):
        return False
    if wanted[0] == "#":
        return True
    return wanted[0] in ("+", name[0]) and says_mqtt(wanted[1:], name[1:], first=False)


def reference(wanted: str, name: str) -> bool:
    return says_mqtt(wanted.split("/"), name.split("/"))


@pytest.mark.parametrize(("wanted", "name", "match"), MATCHES)
def test_the_examples_of_the_specification(wanted: str, name: str, match: bool) -> None:
    assert names.filter_fault(wanted) is None
    assert names.matches(wanted, name) is reference(wanted, name) is match


def test_every_small_filter_matches_what_the_words_say() -> None:
    tree = names.FilterTree()
    for wanted in FILTERS:
        tree.add(wanted)
    for name in NAMES:
        matching = {wanted for wanted in FILTERS if reference(wanted, name)}
        assert {wanted for wanted in FILTERS if names.matches(wanted, name)} == matching
        found = tree.matching(name)
        assert sorted(found) == sorted(matching)


@given(st.lists(st.sampled_from(FILTERS), max_size=6), st.sampled_from(FILTERS))
def test_coverage_is_that_no_name_escapes(by: list[str], wanted: str) -> None:
    # Deeper than any filter, and with a level that none names: what escapes shows among these.
    escapes = [
        name for name in NAMES if reference(wanted, name) and not any(reference(each, name) for each in by)
    ]
    assert names.covered(wanted, by) is not bool(escapes), escapes


@given(st.lists(st.sampled_from(FILTERS)), st.lists(st.sampled_from(FILTERS)))
def test_a_tree_forgets_without_a_trace(kept: list[str], gone: list[str]) -> None:
    tree, untouched = names.FilterTree(), names.FilterTree()
    for wanted in (*kept, *gone):
        tree.add(wanted)
    for wanted in {*gone} - {*kept}:
        tree.discard(wanted)
    tree.discard("x/y")
    for wanted in kept:
        untouched.add(wanted)
    assert _shape(tree) == _shape(untouched)


def _shape(tree: names.FilterTree) -> object:
    def of(node: object) -> object:
        return (node.wanted, {level: of(each) for level, each in sorted(node.below.items())})  # type: ignore[attr-defined]

    return of(tree._root)


@pytest.mark.parametrize(("name", "why"), BAD_NAMES)
def test_what_no_topic_is_named(name: object, why: str) -> None:
    fault = names.name_fault(name)
    assert fault is not None
    assert why in fault
    if isinstance(name, str):
        with pytest.raises(LocalError, match="allowed: text of 1 to 256 bytes"):
            names.check_name(name)


@pytest.mark.parametrize(("wanted", "why"), BAD_FILTERS)
def test_what_is_no_filter(wanted: object, why: str) -> None:
    fault = names.filter_fault(wanted)
    assert fault is not None
    assert why in fault
    if isinstance(wanted, str):
        with pytest.raises(LocalError, match="allowed: text of 1 to 256 bytes"):
            names.check_filter(wanted)


@given(st.text(max_size=300))
def test_every_name_is_a_filter_for_itself_and_no_text_raises(text: str) -> None:
    fault = names.filter_fault(text)
    if names.name_fault(text) is None:
        assert fault is None
        assert not names.is_filter(text)
        assert names.matches(text, text)
        assert names.matches("#", text)
        assert names.covered(text, [text])
        assert names.FilterTree().matching(text) == []
    elif fault is None:
        assert names.is_filter(text) or text.startswith("$")


def test_the_longest_name_counts_bytes() -> None:
    assert names.name_fault("ü" * 128) is None
    assert names.name_fault("ü" * 128 + "a") == "which takes 257 bytes"
