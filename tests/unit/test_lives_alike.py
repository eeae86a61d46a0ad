"""Documents of topics that are alike are told and read once, and say what each by itself would."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import Framing
from tempos._abi import TOPIC_MAX
from tempos_broker.lives import memory as memory_module
from tempos_broker.lives.alike import Documents, Texts, value_of
from tempos_broker.lives.memory import UNREADABLE, Remembered, read, write

LEDGER = {"epoch": 3, "open": [[3, [["g", [["10.0.0.2", 9002, None]]]]]]}


def remembered(name: str, row: int | None = 2, wall: float = 1.5) -> Remembered:
    return Remembered(name, Framing.EVENT, wall, (), LEDGER, {3: [0]}, {}, {}, {}, 4, row)


def what_is_read(text: bytes) -> Remembered | None:
    document = value_of(text)
    return read(document) if document else None


@given(
    st.lists(st.tuples(st.text(min_size=1), st.none() | st.integers(0, TOPIC_MAX)), min_size=1, max_size=5)
)
def test_whatever_the_names_are_they_are_read_as_they_were_told(topics: list[tuple[str, int | None]]) -> None:
    texts = Texts()
    told = {
        number: texts.of(
            remembered(name, row), "like", lambda name=name, row=row: write(remembered(name, row))
        ).encode()
        for number, (name, row) in enumerate(topics)
    }  # fmt: skip
    documents = Documents(told)
    for number, (name, row) in enumerate(topics):
        assert told[number] == json.dumps(write(remembered(name, row))).encode()
        assert documents.remembered(number) == remembered(name, row) == what_is_read(told[number])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"name": "\x01"%s2}',
        b'{"name": ""%s2}',
        b'{"name": "n", "name": "m"%s2}',
        b'{"name": "n", "row": 7%s2}',
        b'{"name": "n"%s2, "row": 3}',
        b'{"name": "n"%s2, "name": "m"}',
        b'{"name": "n"%s02}',
        b'{"name": "n"%s65536}',
        b'{"name": "n"%s2} ',
        b'{"name": "n"%s2',
        b'{"name": "n}%s2}',
        b'{"name": ["n"]%s2}',
        b'{"name": "\\ud800"%s2}',
    ],
)
def test_what_is_no_such_document_is_read_as_any_other_is(text: bytes) -> None:
    usual = json.dumps(write(remembered("usual"))).encode()
    between = usual.removeprefix(b'{"name": "usual"').removesuffix(b"2}")
    text = text.replace(b"%s", between)
    documents = Documents({1: usual, 2: text, 3: usual, 4: text})
    assert documents.remembered(1) == documents.remembered(3) == remembered("usual")
    for topic in (2, 4):
        try:
            expected = what_is_read(text)
        except UNREADABLE:
            with pytest.raises(UNREADABLE):
                documents.remembered(topic)
        else:
            assert documents.remembered(topic) == expected


def test_a_text_is_looked_through_once_however_many_topics_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []
    check = memory_module._check_ledger
    monkeypatch.setattr(memory_module, "_check_ledger", lambda stored: (looked.append(stored), check(stored)))
    told = {number: json.dumps(write(remembered(f"topic {number}", number))).encode() for number in range(50)}
    told[50] = json.dumps(write(remembered("other", wall=2.0))).encode()
    documents = Documents(told)
    assert [documents.remembered(number) for number in range(51)] == [
        *(remembered(f"topic {number}", number) for number in range(50)), remembered("other", wall=2.0)
    ]  # fmt: skip
    assert len(looked) == 2
