"""What Python believes about the shared header is what a C parser reads in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tempos import _abi
from tempos_fastpath import abigen

cffi = pytest.importorskip("cffi")
HEADER = Path(__file__).resolve().parents[2] / "fastpath" / "bpf" / "abi.h"


@pytest.fixture(scope="module")
def c():
    ffi = cffi.FFI()
    ffi.cdef(abigen.declarations())
    return ffi


def test_the_generated_python_is_what_the_header_says() -> None:
    assert abigen.TARGET.read_text() == abigen.generate()


def test_the_event_header_lies_as_in_c(c) -> None:
    layout = c.typeof("struct tempos_event_header")
    assert c.sizeof(layout) == _abi.EVENT_HEADER.size == _abi.EVENT_HEADER_LEN
    values = [0x11, 0x22, 0x33, 0x44, 0x55667788, 0x99AABBCC, 0xDDEEFF01, 0x0203040506070809]
    packed = _abi.EVENT_HEADER.pack(*values)
    for (name, field), value in zip(layout.fields, values, strict=True):
        assert getattr(_abi, f"OFFSET_{name.upper()}") == field.offset
        size = c.sizeof(field.type)
        assert packed[field.offset : field.offset + size] == value.to_bytes(size, "big")


def test_every_reason_is_the_same_number_and_has_words(c) -> None:
    values = dict(c.typeof("enum tempos_reason").relements)
    count = values.pop("TEMPOS_REASONS")
    assert {f"TEMPOS_{reason.name}": int(reason) for reason in _abi.Reason} == values
    assert sorted(values.values()) == list(range(count))
    assert set(_abi.REASON_TEXTS) == set(_abi.Reason)
    assert all(text and reason.label == reason.name.lower() for reason, text in _abi.REASON_TEXTS.items())


def test_structs_have_no_hidden_padding(c) -> None:
    """Both compilers, and user space that copies whole structs into maps, must see the same bytes."""
    for name in re.findall(r"^struct (tempos_\w+) \{", HEADER.read_text(), re.MULTILINE):
        layout = c.typeof(f"struct {name}")
        assert sum(c.sizeof(field.type) for _, field in layout.fields) == c.sizeof(layout), name
