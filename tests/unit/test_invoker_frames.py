"""The records between invoker and worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos_invoker.workers import frames
from tempos_invoker.workers.frames import Answer, Call, FrameError

u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
a_call = st.builds(Call, u64, st.binary(max_size=200), u32, u32, u64, u64, u32, u32, u32)
an_answer = st.builds(Answer, u64, st.integers(0, 0xFFFF), st.binary(max_size=200), u64, u64,
                      st.integers(0, 0xFFFF))  # fmt: skip


@given(st.lists(a_call, max_size=5), st.lists(an_answer, max_size=5))
def test_what_is_written_is_read(calls: list[Call], answers: list[Answer]) -> None:
    assert list(frames.calls(b"".join(call.encode() for call in calls))) == calls
    assert list(frames.answers(b"".join(answer.encode() for answer in answers))) == answers


@given(a_call, an_answer, st.data())
def test_a_cut_message_is_an_error_behind_what_is_whole(
    call: Call, answer: Answer, data: st.DataObject
) -> None:
    for whole, read in ((call.encode(), frames.calls), (answer.encode(), frames.answers)):
        cut = data.draw(st.integers(1, len(whole) - 1))
        records = read(whole + whole[:cut])
        assert next(records) in (call, answer)
        with pytest.raises(FrameError):
            next(records)


def test_the_layout_is_the_one_that_is_agreed() -> None:
    call = Call(0x1122334455667788, b"ab", 3, 4, 5, 6, 7, 8, 1)
    assert call.encode() == bytes.fromhex(
        "02000000 01000000 8877665544332211 03000000 04000000 0500000000000000 0600000000000000"
        "07000000 08000000 6162"
    )
    answer = Answer(9, 2, b"no", 10, 11, 1)
    assert answer.encode() == bytes.fromhex(
        "02000000 0200 0100 0900000000000000 0a00000000000000 0b00000000000000 6e6f"
    )
    assert frames.LARGEST_BODY + frames.CALL.size == frames.LARGEST_OUTPUT + frames.ANSWER.size == 128 * 1024
