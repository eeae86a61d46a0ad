"""A broker is killed and another one of its name starts, by another configuration.

What it finds in the kernel is served, or is gone before it is ready.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.life import EVENTS, NAME, PLAIN, TOPICS, Life, Members, Topics, present
from support.waiting import until

from tempos import Subscriber
from tempos.wire import encode_event
from tempos_bench.nodes.node import ProgramFailed
from tempos_bpf.maps import pinned_map
from tempos_fastpath.survival.orphans import installed

pytestmark = [pytest.mark.kernel, pytest.mark.netns]


def another_version(life: Life) -> dict[str, Any]:
    with pinned_map(life.pins.path("identity")) as identity:
        identity.update(0, b"another!")
    return {}


def changed(topic: int, **more: object) -> dict[str, Any]:
    return {"topics": {**TOPICS, topic: {**TOPICS[topic], **more}}}


#: What is changed while nobody is there, and whether the next broker can know what passed meanwhile.
CHANGES: dict[str, tuple[Callable[[Life], dict[str, Any]], bool]] = {
    "nothing": (lambda life: {}, True),
    "off": (lambda life: {"fast": {"mode": "off"}}, True),
    "unavailable": (lambda life: {"fast": {"mode": "native", "interfaces": ["lo"]}}, True),
    "not built": (lambda life: {"libbpf": False}, False),
    "an interface less": (lambda life: {"fast": {"interfaces": ["eth1"]}}, True),
    "generic": (lambda life: {"fast": {"mode": "generic"}}, True),
    "not pinned": (lambda life: {"fast": {"pin": False}}, True),
    "path": (lambda life: changed(EVENTS, path="slow"), True),
    "sources": (lambda life: changed(EVENTS, sources=["10.0.0.0/8"]), True),
    "a static member more": (lambda life: changed(EVENTS, members=[{"ip": "10.0.2.2", "port": 7}]), True),
    "another port and address": (
        lambda life: {"listen": [life.topology.broker.address], "api": "127.0.0.1:9996"}, True),
    "another version": (another_version, False),
    "without state": (lambda life: {"state": "off"}, False),
    "with another state": (lambda life: {"state": str(life.folder / "other.db")}, False),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_has_changed_those_present_get_everything_and_nobody_else_does(
    life: Life, change: str
) -> None:
    alter, known = CHANGES[change]
    with Members(life) as members:
        life.start()
        old, other = (members.join("events", group) for group in ("old", "other"))
        plain = members.join("plain", "old")
        until(
            lambda: all(each["path"] == "fast" for each in life.ask("/v1/topics")),
            lambda: life.ask("/v1/topics"),
        )
        life.send(EVENTS)
        life.send(PLAIN)
        life.kill()
        life.send(EVENTS)
        life.send(PLAIN)
        until(lambda: [each.stats.datagrams for each in (old, other, plain)] == [100] * 3, "without a broker")
        life.start(**alter(life))
        # They may have to be told that they are forgotten. Who joins after that is answered after they were.
        until(lambda: present(life, "events") >= {"old", "other"}, lambda: life.topic("events"))
        until(lambda: present(life, "plain") == {"old"}, lambda: life.topic("plain"))
        new, late = members.join("events", "new"), members.join("plain", "late")
        members.leave(old)
        left = old.stats.datagrams
        life.send(EVENTS)
        life.send(PLAIN)
        here = (other, new, plain, late)
        until(lambda: [each.stats.datagrams for each in here] == [150, 50, 150, 50],
              lambda: f"{life.ask('/v1/ledger')} {[each.stats for each in here]}")  # fmt: skip
        assert old.stats.datagrams == left == 100
        for each in here:
            members.leave(each)
        document = life.ask("/v1/ledger")
        assert document["balanced"], document
        for name, topic in (("events", EVENTS), ("plain", PLAIN)):
            account = life.topic(name)
            # To the event, if counters and account of the former life are of one piece; else from here on.
            wanted = life.sent[topic] if known else 50
            assert account["received"] == wanted, account
            for group in account["groups"]:
                assert group["lost"] == group["unconfirmed"] == 0, account
        if change in ("off", "unavailable", "not built"):
            assert life.carried() == []
            assert not life.pins.folder.exists()
        life.kill()
        if change == "not pinned":
            assert life.carried() == []


@pytest.mark.parametrize(
    ("change", "mode"), [("removed", "auto"), ("renamed", "off"), ("another id", "auto")]
)
def test_the_route_of_a_topic_that_is_no_more_is_taken_out(life: Life, change: str, mode: str) -> None:
    topics: dict[str, Topics] = {
        "removed": {PLAIN: TOPICS[PLAIN]},
        "renamed": {EVENTS: {"name": "others"}, PLAIN: TOPICS[PLAIN]},
        "another id": {5: TOPICS[EVENTS], PLAIN: TOPICS[PLAIN]},
    }
    with Members(life) as members:
        life.start()
        member = members.join("events", "g")
        until(lambda: life.ask("/v1/topics/events")["path"] == "fast")
        epoch = life.topic("events")["epoch"]
        life.send(EVENTS)
        life.kill()
        life.send(EVENTS)
        until(lambda: member.stats.datagrams == 100, "without a broker")
        life.start(topics[change], {"mode": mode})
        life.send(EVENTS)

        def refused() -> int:
            status = life.ask("/v1/status")
            of_topics = sum(
                sum(topic["refused"].values()) for topic in status["topics"] if topic["id"] == EVENTS
            )
            return int(of_topics + status["unattributed"].get("unknown_topic", 0))

        # It may be a member of what has its id now, or of nothing; until it says so events go to nobody.
        until(lambda: refused() + member.stats.datagrams == 150, lambda: life.ask("/v1/status"))
        assert member.stats.datagrams == 100
        assert life.ask("/v1/ledger")["balanced"]
        if change == "removed":
            assert "events is not configured any more" in life.said
        life.kill()
        # Back again, it begins anew, and no epoch comes twice.
        life.start()
        until(lambda: present(life, "events") == {"g"}, lambda: life.topic("events"))
        members.join("events", "late")
        assert life.topic("events")["epoch"] > epoch
        life.send(EVENTS)
        until(lambda: member.stats.datagrams == 150, lambda: f"{member.stats} {life.ask('/v1/status')}")
        assert life.ask("/v1/ledger")["balanced"]
        members.leave(member)


@pytest.mark.parametrize(
    ("change", "mode"), [("ids swapped", "off"), ("another framing", "auto"), ("another data port", "auto")]
)
def test_members_of_a_topic_that_comes_otherwise_get_it_so(life: Life, change: str, mode: str) -> None:
    events, others = {"name": "events"}, {"name": "others"}
    topics: dict[str, Topics] = {
        "ids swapped": {1: others, 2: events},
        "another framing": {1: {**events, "framing": "raw"}, 2: others},
        "another data port": {1: events, 2: others},
    }
    port = 9990 if change == "another data port" else 9998
    with Members(life) as members:
        life.start({1: events, 2: others})
        here = {1: members.join("events", "g"), 2: members.join("others", "g")}
        until(lambda: all(each["path"] == "fast" for each in life.ask("/v1/topics")))
        for id_, each in here.items():
            life.send(id_)
            taken(each, 50)
        life.kill()
        life.start(topics[change], {"mode": mode}, data_port=port)
        until(lambda: all(present(life, name) == {"g"} for name in ("events", "others")), "members again")
        if change == "ids swapped":
            here = {1: here[2], 2: here[1]}
        until(lambda: all(knows(each, id_, topics[change]) for id_, each in here.items()), "all know it")
        for id_, each in here.items():
            name = topics[change][id_]["name"]
            for number in range(40):
                raw = topics[change][id_].get("framing") == "raw"
                data = bytes((id_,)) + b"body" if raw else encode_event(id_, 8, number, 0, b"body")
                life.source.sendto(data, (life.topology.broker.address, port))
            assert set(taken(each, 40)) == {name}
        for each in here.values():
            members.leave(each)
        document = life.ask("/v1/ledger")
        assert document["balanced"], document
        for topic in document["topics"]:
            for group in topic["groups"]:
                assert group["lost"] == group["unconfirmed"] == 0, document


def knows(subscriber: Subscriber, id_: int, topics: Topics) -> bool:
    """Whether it is a member, and knows the topic of this id as it is now."""
    feed, raw = subscriber._intake.feeds.get(id_), topics[id_].get("framing") == "raw"
    return (
        not subscriber.away
        and feed is not None
        and (feed.name, feed.is_event) == (topics[id_]["name"], not raw)
    )


def taken(subscriber: Subscriber, count: int) -> list[str]:
    """The topics of so many events."""
    got: list[str] = []

    def all_there() -> bool:
        while (event := subscriber.poll()) is not None:
            got.append(event.topic)
        return len(got) >= count

    until(all_there, lambda: f"{len(got)} of {count}: {subscriber.stats}")
    return got


def test_what_others_left_is_told(life: Life) -> None:
    other = f"another-{os.getpid()}"
    life.start(name=other)
    life.kill()
    life.start(fast={"mode": "off"})
    assert (
        f"the fast path of a broker named '{other}', which is gone, still forwards in eth0, eth1" in life.said
    )
    assert life.carried() == ["eth0", "eth1"]
    life.kill()
    for each in installed():
        assert each.identity.name != NAME


def hold(life: Life, kind: int, ip: str, port: int) -> socket.socket:
    def take() -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind)
        sock.bind((ip, port))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        return sock

    return life.topology.broker.call(take)


#: What comes last of a start, and fails; with these the broker goes by ``on_stop`` once it is ready.
LATE = {
    "the last of the privileges": """
import tempos, tempos_broker.privileges
def fail(**_):
    raise tempos.Unavailable("the kernel refuses")
tempos_broker.privileges.finish = fail
""",
    "serving the API": """
import tempos_daemon.http_server
async def fail(_):
    raise OSError(24, "Too many open files")
tempos_daemon.http_server.HttpServer.start = fail
""",
}

FAULTS: dict[str, tuple[dict[str, Any], tuple[int, str, int] | None]] = {
    "a token file that is not there": ({"api_token_file": "/nowhere/token"}, None),
    "API port": ({}, (socket.SOCK_STREAM, "127.0.0.1", 9996)),
    "data port": ({}, (socket.SOCK_DGRAM, "10.0.2.1", 9998)),
    "control port": ({}, (socket.SOCK_DGRAM, "10.0.2.1", 9997)),
    "a member that is the broker": (changed(EVENTS, members=[{"ip": "10.0.1.1", "port": 9998}]), None),
    "a user that is not there": ({"user": "nobody-of-that-name"}, None),
    "a state that cannot be had": ({"state": "/proc/state.db"}, None),
    "no sense": ({"data_port": 0}, None),
    **{name: ({"before": code, "fast": {"on_stop": "withdraw"}}, None) for name, code in LATE.items()},
}


def left(fault: str) -> list[object]:
    """What stays in the kernel, and whose it is; one that fails late has had it."""
    return [
        (each.interfaces, fault in LATE or each.pid) for each in installed() if each.identity.name == NAME
    ]


def test_what_survived_forwards_on_whatever_start_fails_and_the_next_one_takes_it_over(life: Life) -> None:
    """One start after the other fails, those last that have had what survived."""
    with Members(life) as members:
        life.start()
        member = members.join("events", "g")
        until(lambda: life.ask("/v1/topics/events")["path"] == "fast")
        life.send(EVENTS)
        life.kill()
        before = {fault: left(fault) for fault in FAULTS}
        for fault, (options, taken) in FAULTS.items():
            with contextlib.ExitStack() as stack:
                if taken is not None:
                    stack.enter_context(hold(life, *taken))
                with pytest.raises(ProgramFailed) as failure:
                    life.start(**options)
            assert "Traceback" not in str(failure.value), fault
            life.send(EVENTS)
            until(lambda: member.stats.datagrams == life.sent[EVENTS], fault)
            assert left(fault) == before[fault], fault
        life.start()
        assert life.topic("events")["epoch"] == 2, "the very route is gone on with"
        life.send(EVENTS)
        until(lambda: member.stats.datagrams == life.sent[EVENTS])
        members.leave(member)
        account = life.topic("events")
        assert (account["received"], account["balanced"]) == (life.sent[EVENTS], True)
        life.kill()


#: Steps of a start from where what survived is taken over: module, class, what is about to be done.
STEPS = (
    ("tempos_fastpath.offload", "Offload", "take_over"),
    ("tempos_fastpath.offload", "Offload", "configure"),
    ("tempos_broker.routes", "Routes", "resume_all"),
    ("tempos_broker.lives.continuity", "Continuity", "begin"),
    ("tempos_broker.worker.slowpaths", "SlowPaths", "start"),
    ("tempos_broker.worker.slowpaths", "SlowPaths", "start_worker"),
)
ENDED = """
import importlib, os
owner = getattr(importlib.import_module({0!r}), {1!r})
step = getattr(owner, {2!r})
def ended(*args, **options):
    os.kill(os.getpid(), {3})
    return step(*args, **options)
setattr(owner, {2!r}, ended)
"""


@pytest.mark.parametrize("first", [0, 1])
def test_what_survived_forwards_on_wherever_a_start_is_ended(life: Life, first: int) -> None:
    """By an operator, or a service manager that has lost patience, at whatever step, however it is
    configured to stop; it says what stays, and the next one goes on with all. One signal after the other:
    at each step two of them."""
    ways = itertools.islice(itertools.cycle((signal.SIGTERM, signal.SIGKILL, signal.SIGINT)), first, None)
    with Members(life) as members:
        life.start()
        member = members.join("events", "g")
        until(lambda: life.ask("/v1/topics/events")["path"] == "fast")
        life.send(EVENTS)
        life.kill()
        for number, (step, how) in enumerate(zip(STEPS, ways, strict=False), 2):
            with pytest.raises(ProgramFailed) as failure:
                life.start(before=ENDED.format(*step, int(how)), fast={"on_stop": "withdraw"})
            assert "Traceback" not in str(failure.value)
            if how != signal.SIGKILL:
                assert f"end that by: tempos fastpath clean {NAME}" in str(failure.value), f"before {step}"
            life.send(EVENTS)
            until(lambda: member.stats.datagrams == 50 * number, f"ended before {step}")  # noqa: B023
        life.start()
        life.send(EVENTS)
        until(lambda: member.stats.datagrams == life.sent[EVENTS], "after all of them")
        members.leave(member)
        account = life.topic("events")
        assert (account["received"], account["balanced"]) == (life.sent[EVENTS], True)
        life.kill()


def test_what_nobody_here_can_read_is_off_before_it_is_ready(life: Life) -> None:
    """Even where somebody else looks at it for a while: with the last who does, the program goes."""
    with Members(life) as members:
        life.start()
        member = members.join("events", "a")
        until(lambda: all(each["path"] == "fast" for each in life.ask("/v1/topics")[:1]), "the fast path")
        life.kill()
        watched = life.topology.broker.call(lambda: list(life.pins.links()))
        assert life.carried()

        def let_go() -> None:
            until(lambda: not life.pins.folder.exists(), "the pins are removed")
            for link in watched:
                link.close()

        watcher = threading.Thread(target=let_go)
        watcher.start()
        life.start(libbpf=False)
        assert not life.carried()
        watcher.join()
        members.leave(member)
