"""A broker is told to stop while events flow, another one of its name starts: who gets what, what is left."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest
from support.life import EVENTS, PLAIN, TOPICS, Life, Members
from support.waiting import LIMIT, until

pytestmark = [pytest.mark.kernel, pytest.mark.netns]


#: From when on it is ready, what it prints goes nowhere.
UNHEARD = """
import os
import tempos_broker.__main__ as module
def deafen(state, told=module.notify):
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    told(state)
module.notify = deafen
"""


class Flow:
    """Events of both topics, a few every hundredth of a second, for as long as the context lasts."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self._life.send(EVENTS, 3)
            self._life.send(PLAIN, 3)

    def wait(self, more: int) -> None:
        goal = self._life.sent.get(PLAIN, 0) + more
        until(lambda: self._life.sent.get(PLAIN, 0) >= goal)

    def __enter__(self) -> Flow:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def fast(life: Life) -> None:
    until(lambda: all(each["path"] == "fast" for each in life.ask("/v1/topics")))


@pytest.mark.parametrize(
    ("mode", "how", "on_stop"),
    [
        ("native", signal.SIGTERM, "keep"), ("generic", signal.SIGUSR2, "withdraw"),
        ("native", signal.SIGKILL, "withdraw"), ("generic", signal.SIGKILL, "withdraw"),
    ],
)  # fmt: skip
def test_no_event_is_lost_over_restarts_under_traffic(
    life: Life, mode: str, how: signal.Signals, on_stop: str
) -> None:
    options = {"mode": mode, "on_stop": on_stop}
    with Members(life) as members:
        life.start(fast=options)
        joined = [members.join("events", "a"), members.join("events", "b"), members.join("plain", "a")]
        fast(life)
        epochs = [life.topic(name)["epoch"] for name in ("events", "plain")]
        with Flow(life) as flow:
            for _ in range(2):
                flow.wait(50)
                if how is signal.SIGKILL:
                    life.kill()
                else:
                    life.end(how)
                    assert "stopping: the kernel goes on with events, plain for the next" in life.said
                flow.wait(50)
                life.start(fast=options)
        fast(life)
        wanted = [life.sent[EVENTS], life.sent[EVENTS], life.sent[PLAIN]]
        until(lambda: [each.stats.datagrams for each in joined] == wanted,
              lambda: f"{wanted} {[each.stats for each in joined]} {life.ask('/v1/ledger')}")  # fmt: skip
        assert [life.topic(name)["epoch"] for name in ("events", "plain")] == epochs
        for each in joined:
            members.leave(each)
        for name, topic in (("events", EVENTS), ("plain", PLAIN)):
            account = life.topic(name)
            assert (account["received"], account["balanced"]) == (life.sent[topic], True), account
            for group in account["groups"]:
                assert group["lost"] == group["unconfirmed"] == 0, account
        life.kill()


def settled(account: dict[str, Any]) -> bool:
    return bool(sum(group["delivered"] for group in account["groups"]) == account["received"])


@pytest.mark.parametrize(
    ("how", "on_stop"),
    [(signal.SIGINT, "keep"), (signal.SIGTERM, "withdraw")],
    ids=["SIGINT", "SIGTERM"],
)
def test_what_is_withdrawn_leaves_nothing_and_all_that_came_before_is_served(
    life: Life, how: signal.Signals, on_stop: str
) -> None:
    with Members(life) as members:
        life.start(fast={"on_stop": on_stop})
        joined = [members.join("events", "a"), members.join("plain", "a")]
        fast(life)
        with Flow(life) as flow:
            flow.wait(50)
            life.end(how)
            assert life.carried() == []
            assert not life.pins.folder.exists()
            flow.wait(50)
        assert "stopping: the kernel" not in life.said
        life.start(topics={**TOPICS, PLAIN: {**TOPICS[PLAIN], "path": "slow"}})
        # Everything that any account has of it reached its member: nothing was lost behind the broker.
        until(lambda: all(settled(life.topic(name)) for name in ("events", "plain")),
              lambda: life.ask("/v1/ledger"))  # fmt: skip
        for name, each, topic in zip(("events", "plain"), joined, (EVENTS, PLAIN), strict=True):
            account = life.topic(name)
            assert account["received"] == each.stats.datagrams < life.sent[topic]
            assert account["balanced"], account
        for each in joined:
            members.leave(each)
        life.kill()


#: It is killed when all is withdrawn and nothing is taken away yet.
KILLED = """
import os
from tempos_fastpath.offload import Offload
async def close(*_, **__):
    os.kill(os.getpid(), 9)
Offload.close = close
"""


def test_one_that_is_killed_as_it_stops_leaves_nothing_that_forwards_and_the_next_goes_on(life: Life) -> None:
    with Members(life) as members:
        life.start(before=KILLED, fast={"on_stop": "withdraw"})
        joined = [members.join("events", "a"), members.join("plain", "a")]
        fast(life)
        for topic in TOPICS:
            life.send(topic)
        until(lambda: [each.stats.datagrams for each in joined] == [50, 50])
        life.process.send(signal.SIGTERM)
        assert life.process.wait(LIMIT) == -signal.SIGKILL, life.said
        assert life.carried() == ["eth0", "eth1"]
        for topic in TOPICS:
            life.send(topic)
        life.start()
        assert "cannot be read" not in life.said
        fast(life)
        for topic in TOPICS:
            life.send(topic)
        until(lambda: [each.stats.datagrams for each in joined] == [100, 100], lambda: life.ask("/v1/ledger"))
        for each in joined:
            members.leave(each)
        for name in ("events", "plain"):
            account = life.topic(name)
            assert (account["received"], account["balanced"]) == (100, True), account
        life.kill()


def test_nothing_goes_on_where_nothing_is_pinned_and_a_reload_may_change_it(life: Life) -> None:
    with Members(life) as members:
        life.start()
        life.end(signal.SIGUSR2)
        assert "stopping: the fast path stays for the next broker" in life.said
        assert life.pins.folder.exists()
        # Nobody is a member: there is nothing to hand over, unless that is what was asked for.
        life.start()
        life.end(signal.SIGTERM)
        assert "stopping:" not in life.said
        assert not life.pins.folder.exists()
        life.start(fast={"pin": False})
        members.join("events", "a")
        until(lambda: life.ask("/v1/topics/events")["path"] == "fast")
        life.end(signal.SIGTERM)
        assert life.carried() == []
        life.start(fast={"on_stop": "withdraw"})
        until(lambda: life.ask("/v1/topics/events")["path"] == "fast")
        file = life.folder / "broker.toml"
        file.write_text(file.read_text().replace('on_stop = "withdraw"', 'on_stop = "keep"'))
        changes = life.topology.broker.request("POST", "/v1/reload")["changes"]
        assert changes == ["fastpath.on_stop (withdraw -> keep)"]
        life.end(signal.SIGTERM)
        assert life.carried() == ["eth0", "eth1"]
        life.start()
        life.end(signal.SIGINT)
        assert (life.carried(), life.pins.folder.exists()) == ([], False)


def test_that_nobody_hears_what_stays_makes_no_stop_a_failed_one(life: Life) -> None:
    with Members(life) as members:
        life.start(before=UNHEARD)
        member = members.join("events", "a")
        until(lambda: life.ask("/v1/topics/events")["path"] == "fast")
        life.end(signal.SIGTERM)
        assert "the standard output takes nothing" in life.said
        life.send(EVENTS)
        until(lambda: member.stats.datagrams == 50)
        life.start()
        members.leave(member)
        life.end(signal.SIGINT)
