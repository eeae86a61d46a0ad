"""What viewers are told: the state, then what changed, made once for all; who does not take it is let go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.waiting import LIMIT

from tempos import PathPolicy, Quality
from tempos.doctor import Tried
from tempos.doctor.serving import SERVING
from tempos_broker.api import feed as feeding
from tempos_broker.api.feed import STATES, UNSTEADY, Feed
from tempos_daemon import slices
from tempos_daemon.slices import Slices
from tempos_daemon.verdict import Verdict

from .test_api_snapshots import alike
from .test_broker import running


async def step(stream: AsyncIterator[bytes]) -> tuple[str, dict[str, Any]]:
    event = (await asyncio.wait_for(anext(stream), LIMIT)).decode()
    name, _, data = event.strip().partition("\n")
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


async def test_the_state_and_then_what_changed() -> None:
    async with running() as (broker, _, client):
        feed = Feed(broker.documents)
        first, second = feed.look(), feed.look()
        for stream in (first, second):
            name, state = await step(stream)
            assert name == "state"
            assert {each["name"] for each in state["topics"]} == {t.topic.name for t in broker.config.topics}
            # The fast path of this broker is a fake that drops some.
            assert [each["kind"] for each in state["changes"]] == ["start", "wrong"]
            assert [each["code"] for each in state["wrong"]] == ["TD412"]
        alpha = broker.config.topics[0].topic.name
        await broker.move(alpha, PathPolicy.SLOW)
        client.ask("subscribe", topic=alpha, group="g", port=client.port)
        await client.answer()
        told: list[dict[str, Any]] = []
        while not any(each["groups"] for part in told for each in part["topics"]):
            name, part = await step(first)
            assert name == "step"
            assert {each["name"] for each in part["topics"]} <= {alpha}
            told.append(part)
            assert (await step(second))[1] == part
        changes = [each["kind"] for part in told for each in part["changes"]]
        assert sorted(changes) == ["joined", "path"]
        assert told[-1]["topics"][0]["groups"][0]["members"] == 1
        await feed.close()


async def test_who_asks_once_is_told_what_has_gone_wrong_within_the_last_second() -> None:
    async with running(topics=alike()) as (broker, _, _):
        feed = Feed(broker.documents)
        feed.begin()
        # Nobody looks, so no step would come by itself.
        feed._viewers._unseen = 3600.0
        before = await feed.wrong()
        broker._slow._server._losses.overrun[Quality.SQ] += 3

        async def told() -> list[dict[str, Any]]:
            while not (new := [each for each in (await feed.wrong())["wrong"] if each["code"] == "TD411"]):
                await asyncio.sleep(0.05)
            return new

        (new,) = await asyncio.wait_for(told(), LIMIT)
        assert not any(each["code"] == "TD411" for each in before["wrong"])
        assert (new["subject"], new["now"]) == ("SQ", True)
        await feed.close()


async def test_others_have_their_turn_after_each_topic_whatever_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeding, "Slices", lambda: Slices(0.0, 0.0))
    # Nor are slices longer where the machine has others to do.
    monkeypatch.setattr(slices, "MOST", 0.0)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with running(topics=alike()) as (broker, _, _):
        feed = Feed(broker.documents)
        await feed._step()
        other = asyncio.create_task(others())
        # Nobody looks, and nothing has changed since; then all is told, and then what of it is new.
        for seen in (False, True, True):
            monkeypatch.setattr(type(feed._viewers), "__bool__", lambda _, seen=seen: seen)
            before = turns
            await feed._step()
            assert turns - before >= len(alike())
            assert len(feed._briefs) == (len(alike()) if seen else 0)
        for state in broker.documents.present():
            told = json.loads(feed._briefs[state.route.topic.id][1])
            assert told == feeding._brief_of(broker.documents.tell(state))
        other.cancel()
        await feed.close()


def test_what_is_wrong_is_known_since_when() -> None:
    verdict = Verdict(SERVING.checks, STATES)

    def lost(count: int) -> list[Tried]:
        return [Tried("TD407", False, f"{count} lost", "press work")]

    assert [how for how, _ in verdict.judge(lost(1), 100.0)] == ["began"]
    assert verdict.judge(lost(2), 110.0) == []
    (row,) = verdict.document(120.0)
    assert (row["since"], row["changed"], row["cause"], row["now"]) == (100.0, 110.0, "2 lost", True)
    assert not verdict.document(500.0)[0]["now"]
    assert [how for how, _ in verdict.judge(lost(3), 500.0)] == ["goes on"]
    assert [how for how, _ in verdict.judge([], 510.0)] == ["over"]
    assert verdict.document(510.0) == []


def test_what_an_account_that_goes_on_has_counted_already_is_not_going_on_now() -> None:
    def tried(code: str, count: int) -> list[Tried]:
        return [Tried(code, False, f"{count} lost", "press")]

    verdict = Verdict(SERVING.checks, STATES, UNSTEADY, goes_on=True)
    found = verdict.judge([*tried("TD407", 5), *tried("TD404", 1)], 100.0)
    assert [(how, each["code"]) for how, each in found] == [("before", "TD407"), ("began", "TD404")]
    told = {each["code"]: (each["since"], each["now"], each["before"]) for each in verdict.document(100.5)}
    assert told == {"TD404": (100.0, True, False), "TD407": (100.0, False, True)}
    assert [(how, each["code"]) for how, each in verdict.judge(tried("TD407", 6), 110.0)] == [
        ("over", "TD404"),
        ("goes on", "TD407"),
    ]
    assert [each["now"] for each in verdict.document(111.0)] == [True]


def test_of_what_goes_on_the_worst_and_then_the_latest_is_first_and_stays_there() -> None:
    verdict = Verdict(SERVING.checks, STATES)
    codes = ["TD415", "TD409", "TD407", "TD402"]
    for number in range(8):
        tried = [
            Tried(code, False, f"{max(number, at)} lost", code)
            for at, code in enumerate(codes)
            if at <= number
        ]
        verdict.judge(tried, 100.0 + number)
    assert [each["code"] for each in verdict.document(108.0)] == ["TD402", "TD407", "TD409", "TD415"]


def test_a_least_figure_that_is_taken_back_and_comes_again_is_one_finding() -> None:
    verdict = Verdict(SERVING.checks, STATES, UNSTEADY)
    found = [Tried("TD414", False, "at least 4", "press")]
    told = [verdict.judge([] if at % 3 else found, 100.0 + at) for at in range(10)]
    assert [how for step in told for how, _ in step] == ["began"]
    assert [how for how, _ in verdict.judge([], 169.5)] == ["over"]
    assert not verdict.document(170.0)
