"""Probes by real clients and a slow path on loopback: reported by members, handed to nobody, counted."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import AsyncExitStack
from pathlib import Path as File

import pytest
from support.brokers import ON_LOOPBACK, serving
from support.ports import free_ports

from tempos import LocalError, Path, Subscriber, Topic, blocking
from tempos.cli import main
from tempos.requests import envelope, probe
from tempos_broker.broker import Broker

from .test_broker import until
from .test_encrypted_topics import KEYS, PRESS, member
from .test_encrypted_topics import running as running_encrypted
from .test_requests import ASKED, STRICT, account, asker, running

WITHIN = 20.0
MANY = "x" * 60


def subscriber(broker: Broker, topic: str, group: str | None = None) -> Subscriber:
    return Subscriber("127.0.0.1", topic, group=group, control_port=broker.config.control_port)


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("topic", [ASKED, STRICT], ids=["narrow", "wide"])
async def test_every_group_reports_and_nobody_is_handed_the_probe(topic: Topic, portable: bool) -> None:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(running(portable))
        groups = ["a", "a", "b", MANY]
        subs = [await stack.enter_async_context(subscriber(broker, topic.name, each)) for each in groups]
        pub = await stack.enter_async_context(asker(broker))
        await pub.publish(topic.name, b"before")
        traces = [
            await pub.trace(topic.name, WITHIN, lambda reports: len(reports) == 3) for _ in range(4)
        ]  # fmt: skip
        await pub.publish(topic.name, b"after")
        for number, trace in enumerate(traces):
            assert {each.group for each in trace.reports} == {"a", "b", MANY}
            assert (trace.topic.id, trace.sequence, trace.no_member) == (topic.id, number + 1, False)
            assert trace.round_trip is not None
            for each in trace.reports:
                assert each.path is Path.SLOW
                assert each.delivery_sequence == (number + 1 if each.group != "a" else (number + 1) // 2)
                assert None not in (each.one_way, each.to_broker, each.in_broker, each.from_broker)
                assert each.round_trip >= each.inside
        ports = {sub._member.port for sub in subs[:2]}  # type: ignore[union-attr]
        assert {each.port for trace in traces for each in trace.reports if each.group == "a"} == ports
        assert [(await subs[2].next(5)).body for _ in range(2)] == [b"before", b"after"]
        assert (subs[2].stats.traced, subs[2].stats.events, subs[2].stats.missed) == (4, 2, 0)
        assert subs[2].stats.requests == 0
        assert pub.requests.requests == 0
        assert account(broker, topic.name)["received"] == pub.stats.events == 6
        for each in account(broker, topic.name)["groups"]:
            await until(
                lambda name=each["name"]: next(  # type: ignore[misc]
                    row["delivered"] for row in account(broker, topic.name)["groups"] if row["name"] == name
                ) == 6
            )  # fmt: skip


async def test_a_topic_without_members_and_one_without_headers() -> None:
    async with running() as broker, asker(broker) as pub:
        trace = await pub.trace("asked", WITHIN)
        assert trace.no_member
        assert not trace.reports
        with pytest.raises(LocalError, match="raw"):
            await pub.trace("plain")


async def test_only_who_has_the_key_of_an_encrypted_topic_is_answered() -> None:
    async with (
        running_encrypted() as broker,
        asker(broker, keys=KEYS) as pub,
        asker(broker) as stranger,
        member(broker, PRESS.name) as sub,
    ):
        trace = await pub.trace(PRESS.name, WITHIN, bool)
        (report,) = trace.reports
        assert (report.path, trace.unread) == (Path.SLOW, 0)
        asked = asyncio.create_task(stranger.trace(PRESS.name, WITHIN))
        await until(lambda: sub.stats.malformed == {"not_encrypted": 1})
        asked.cancel()
        await pub.publish(PRESS.name, b"seen")
        assert (await sub.next(5)).body == b"seen"
        assert (sub.stats.traced, sub.stats.events) == (1, 1)


CONFIG = (
    ON_LOOPBACK
    + """\
[state]
file = "off"
[control]
heartbeat = 0.2
[[topic]]
id = 2
name = "telemetry"
path = "fast"
[[topic.member]]
ip = "127.0.0.1"
port = {sink}
group = "old"
[[topic]]
id = 3
name = "quiet"
"""
)


def test_the_command_tells_tickets_static_members_and_why(
    tmp_path: File, capsys: pytest.CaptureFixture[str]
) -> None:
    data, control, api, sink = free_ports(4)
    file = tmp_path / "broker.toml"
    file.write_text(CONFIG.format(data=data, control=control, api=api, sink=sink))
    at = ["-b", f"127.0.0.1:{control}:{data}", "--api", f"127.0.0.1:{api}", "--timeout", "5"]
    with serving(file, tmp_path / "log"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as old:
        old.bind(("127.0.0.1", sink))
        with (
            blocking.Subscriber("127.0.0.1", "telemetry", group="new", control_port=control),
            blocking.Subscriber("127.0.0.1", "telemetry", group="new", control_port=control),
        ):
            assert main(["trace", "telemetry", "--json", "--count", "4", *at]) == 0
            rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
            for number, row in enumerate(rows):
                new, static = row["groups"]
                assert (new["name"], new["ticket"], new["path"], new["members"]) == ("new", number, "slow", 2)
                assert (static["member"], static["why"]) == (f"127.0.0.1:{sink}", "static")
                assert (row["others"], row["topic_path"], row["api"], row["whole"]) == (0, "slow", "", True)
                assert row["reason"]
            assert len({row["groups"][0]["member"] for row in rows}) == 2
            assert main(["trace", "telemetry", *at]) == 0
            text = capsys.readouterr().out
            assert "group new: ticket 4, member 127.0.0.1:" in text
            assert "static, which cannot answer" in text
            assert "the topic takes the slow path: " in text
            assert main(["trace", "telemetry", "-b", at[1], "--api", "127.0.0.1:1"]) == 0
            assert "the control API does not tell more" in capsys.readouterr().out
        assert main(["trace", "quiet", *at]) == 1
        assert "has no member" in capsys.readouterr().out


def test_a_probe_that_is_cut_or_of_a_later_version_is_left_as_it_is() -> None:
    marks, rest = probe.blank()
    datagram = bytes(24 + envelope.LENGTH) + marks + rest
    at = 24 + envelope.LENGTH
    assert probe.mark(datagram[: at + 20], at, 5) == datagram[: at + 20]
    later = datagram[:at] + b"\2" + datagram[at + 1 :]
    assert probe.mark(later, at, 5) == later
    done = probe.mark(datagram, at, 5)
    told = probe.read(done[at : at + probe.MARKS_LEN] + (probe.tell(300, 7, "10.0.0.1", 9, "ä" * 200) or b""))
    assert (told.slow, told.taken_ns, told.received_ns, told.ip, told.port) == (True, 5, 7, "10.0.0.1", 9)
    assert told.group == "ä" * 127
    assert probe.tell(10, 7, "10.0.0.1", 9, "g") is None
