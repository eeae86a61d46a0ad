"""Answers about every topic: whole JSON whatever their number, and others have their turn in between."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.responses import StreamingResponse

from tempos_broker.api.snapshot import Snapshot
from tempos_broker.api.stream import listed
from tempos_daemon import slices, viewers
from tempos_daemon.slices import PIECE


async def body(response: StreamingResponse) -> bytes:
    return b"".join([piece async for piece in response.body_iterator])  # type: ignore[misc]


@pytest.mark.parametrize("count", [0, 1, 2, 300])
async def test_what_is_sent_is_whole(count: int) -> None:
    documents = [{"name": f'"ü{number}', "n": None} for number in range(count)]
    assert json.loads(await body(listed(iter(documents)))) == documents
    topics = tuple(json.dumps(each).encode() for each in documents)
    whole = b"".join(Snapshot({"a": {"b": 1}}, topics, {"balanced": True}).pieces())
    assert json.loads(whole) == {"a": {"b": 1}, "topics": documents, "balanced": True}
    assert json.loads(b"".join(Snapshot({}, topics, {}).pieces())) == {"topics": documents}


@pytest.mark.parametrize("count", [0, 1, 2, 3000])
def test_an_event_in_pieces_is_one_event(count: int) -> None:
    topics = [{"id": number, "name": "ü" * 40} for number in range(count)]
    lists = {"topics": map(viewers.encoded, topics), "gone": (), "changes": [b"1", b"2"]}
    pieces = list(viewers.event("state", 1.5, {"head": b"{}"}, lists))
    assert max(map(len, pieces)) < 2 * viewers.PIECE
    name, data, *rest = b"".join(pieces).split(b"\n")
    assert (name, rest) == (b"event: state", [b"", b""])
    wanted = {"at": 1.5, "head": {}, "topics": topics, "gone": [], "changes": [1, 2]}
    assert json.loads(data.removeprefix(b"data: ")) == wanted


async def test_what_is_told_as_it_is_read_is_whole_too() -> None:
    def document(listed: Any) -> dict[str, Any]:
        groups = [[{"ip": "10.0.0.1", "n": [1, {}]}, {"ip": "x"}], [], [{}]]
        return {
            "a": 1,
            "groups": listed({"name": "g", "members": listed(iter(each))} for each in groups),
            "more": listed(iter([])),
        }

    told = listed(iter([document(iter), document(iter), {"only": iter([1, "two"])}]))
    assert json.loads(await body(told)) == [document(list), document(list), {"only": [1, "two"]}]


def of_one_document(parts: Iterator[int]) -> Iterator[Any]:
    """A topic may have thousands of members, and is one document."""
    return iter([{"groups": iter([{"members": parts}])}])


@pytest.mark.parametrize(
    ("told", "wanted"),
    [(iter, [*range(20)]), (of_one_document, [{"groups": [{"members": [*range(20)]}]}])],
    ids=["many documents", "a large document"],
)
async def test_others_have_their_turn_after_each_piece(
    told: Callable[[Iterator[int]], Iterator[Any]], wanted: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if no pause took longer than it was meant to.
    monkeypatch.setattr(slices, "MOST", 0.0)
    turns, seen = 0, []

    def parts() -> Iterator[int]:
        for number in range(20):
            seen.append(turns)
            # As long as a piece may take.
            until = time.perf_counter() + PIECE
            while time.perf_counter() < until:
                pass
            yield number

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    assert json.loads(await body(listed(told(parts())))) == wanted
    other.cancel()
    assert len(set(seen)) == 20, "nobody waits for more than one piece"
