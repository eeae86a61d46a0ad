"""What holds for every configuration, and for every text that is none."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tempos import ConfigError, Framing, Overflow, PathPolicy, Quality, Topic
from tempos._abi import NARROW
from tempos._rows import is_topic
from tempos.names import MAX_BYTES, name_fault
from tempos_broker import membership
from tempos_broker.config import (
    BrokerConfig,
    ClientConfig,
    ControlConfig,
    FastPathConfig,
    Limits,
    QualityConfig,
    StateConfig,
    StaticMember,
    TopicConfig,
    dump,
    layout,
    parse,
)
from tempos_broker.config.model import EVERY_TOPIC, OWN_GROUP

# Checked configurations

names = (
    st.text(st.just(" ") | st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=64)
    .map(lambda text: text.strip() or "name")
    .filter(lambda text: not text.startswith(OWN_GROUP))
)
topic_names = names.filter(lambda text: name_fault(text) is None)
ports = st.integers(1, 65535)
addresses = st.integers(1, 0xDFFFFFFF).map(lambda number: str(ipaddress.IPv4Address(number)))
macs = st.integers(1, 2**48 - 1).map(
    lambda number: ":".join(f"{octet:02x}" for octet in (number & ~(1 << 40) or 2).to_bytes(6, "big"))
)
networks = st.builds(
    lambda number, length: str(ipaddress.IPv4Network((number, length), strict=False)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)
interfaces = st.from_regex(r"[a-z0-9@._-]{1,15}", fullmatch=True).filter(lambda text: text not in (".", ".."))
limits = st.builds(
    Limits,
    queue_sq=st.integers(1, layout.MAX_QUEUE),
    queue_bq=st.integers(1, layout.MAX_QUEUE),
    batch=st.integers(1, layout.MAX_BATCH),
    datagram=st.integers(24, layout.MAX_PAYLOAD),
    receive_buffer=st.integers(4096, layout.MAX_RECEIVE_BUFFER),
    members_per_group=st.integers(4, 512),
    groups_per_topic=st.integers(4, 16),
)
cpus = st.lists(st.integers(0, layout.MAX_CPU), unique=True, max_size=3).map(tuple)
qualities = st.builds(
    lambda worker, sockets, share, measured, fifo, cpus, marks: QualityConfig(
        sockets if sockets != "one" or not worker else "auto",
        share, measured, worker, fifo, cpus[0] if worker else (), cpus[1], *marks,
    ),
    st.booleans(),
    st.sampled_from(["auto", "ebpf", "classic", "one"]),
    st.integers(0, 50),
    st.booleans(),
    st.integers(0, 99),
    st.tuples(cpus, cpus),
    st.tuples(st.integers(0, 63), st.integers(0, 63), st.integers(0, 15), st.integers(0, 15)),
)  # fmt: skip
unlimited = st.just((0, 0, Overflow.DROP))
rates = unlimited | st.tuples(
    st.integers(1, layout.MAX_TOPIC_RATE), st.integers(0, layout.MAX_BURST), st.sampled_from(Overflow)
)
secrets = st.binary(min_size=16, max_size=64)
tokens = st.from_regex(r"[!-~]{16,256}", fullmatch=True)
key_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,20}", fullmatch=True)
controls = st.builds(
    lambda lease, share, who, free, rate, window: ControlConfig(
        lease, max(0.01, lease * share), tuple(who), tuple(free), rate, window
    ),
    st.floats(0.05, 3600),
    st.floats(0.0, 0.9),
    st.lists(networks, unique=True, max_size=4),
    st.lists(networks, unique=True, max_size=4),
    st.integers(1, layout.MAX_RATE),
    st.floats(1, 3600),
)


@st.composite
def members(draw: st.DrawFn, listen: tuple[str, ...]) -> tuple[StaticMember, ...]:
    endpoints = draw(st.lists(st.tuples(addresses, ports), unique=True, max_size=4))
    ours = addresses if listen == ("0.0.0.0",) else st.sampled_from(listen)
    return tuple(
        StaticMember(ip, port, draw(st.none() | names), draw(st.none() | macs), draw(st.none() | ours))
        for ip, port in endpoints
    )


@st.composite
def clients(draw: st.DrawFn, topics: list[str]) -> tuple[ClientConfig, ...]:
    allowed = [*topics, EVERY_TOPIC, "plant/+/#"]
    rights = st.lists(st.sampled_from(allowed), unique=True, max_size=3).map(tuple)
    some = draw(
        st.lists(
            st.tuples(key_ids, secrets), max_size=3, unique_by=(lambda pair: pair[0], lambda pair: pair[1])
        )
    )
    return tuple(ClientConfig(key_id, secret, draw(rights), draw(rights)) for key_id, secret in some)


@st.composite
def configs(draw: st.DrawFn) -> BrokerConfig:
    numbers = draw(st.lists(st.integers(1, 65534).filter(is_topic), unique=True, min_size=1, max_size=5))
    titles = draw(st.lists(topic_names, unique=True, min_size=len(numbers), max_size=len(numbers)))
    listen = draw(st.just(("0.0.0.0",)) | st.lists(addresses, unique=True, min_size=1, max_size=8).map(tuple))
    # Foreign topics have wide ids.
    framings = {
        number: draw(st.sampled_from(list(Framing)[: 3 if number >= NARROW else 2])) for number in numbers
    }
    foreign = [number for number in numbers if framings[number] is Framing.FOREIGN]
    own_ports = draw(st.lists(ports, unique=True, min_size=len(foreign), max_size=len(foreign)))
    ports_of = {number: (port,) for number, port in zip(foreign, own_ports, strict=True)}
    topics = tuple(
        TopicConfig(
            Topic(
                number,
                name,
                draw(st.sampled_from(Quality)),
                draw(st.integers(0, 7)),
                framings[number],
                draw(st.sampled_from(PathPolicy)),
                tuple(draw(st.lists(networks, unique=True, max_size=8))),
                *draw(rates),
                ports=ports_of.get(number, ()),
            ),
            draw(members(listen)),
        )
        for number, name in zip(numbers, titles, strict=True)
    )
    data, control, api = draw(st.lists(ports, unique=True, min_size=3, max_size=3))
    host = draw(addresses)
    host, api = draw(st.sampled_from([(host, api), ("127.0.0.1", 0)]))
    exposed = bool(api)
    own = {data, control, *own_ports}
    assume(not {data, control} & set(own_ports))
    # A member where the broker itself listens makes a loop; here the port alone rules that out.
    assume(not any(member.port in own for entry in topics for member in entry.members))
    return BrokerConfig(
        topics,
        listen,
        data,
        control,
        host,
        api,
        FastPathConfig(
            draw(st.sampled_from(["auto", "native", "generic", "off"])),
            tuple(draw(st.lists(interfaces, unique=True, max_size=3))),
        ),
        draw(limits),
        replace(draw(controls), clients=draw(clients(titles))),
        user=draw(st.sampled_from(["", "nobody"])),
        name=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", fullmatch=True)),
        api_token=draw(tokens) if exposed else "",
        api_token_file="" if exposed else draw(st.sampled_from(["", "/etc/tempos.token"])),
        api_expose=exposed,
        adapter=draw(st.sampled_from(["udp", "other_2"])),
        quality=draw(qualities),
        state=StateConfig(draw(st.sampled_from(["", "off", "/var/lib/tempos/ä.db"]))),
    )


@given(configs())
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_what_is_written_is_read_back(config: BrokerConfig) -> None:
    assert parse(dump(config)) == config


def test_only_what_differs_from_the_defaults_is_written() -> None:
    topic = TopicConfig(Topic(1, "a"))
    assert dump(BrokerConfig((topic,))).startswith("[[topic]]\n")
    assert dump(BrokerConfig((topic,), api_port=0)).startswith('[broker]\napi = "off"\n\n[[topic]]\n')


# Texts that are none

keys = st.sampled_from(
    sorted(
        {"topic_value", "address", "", "q w"}.union(
            layout.FILE, layout.BROKER, layout.FASTPATH, layout.LIMITS, layout.CONTROL, layout.TOPIC,
            layout.MEMBER, layout.CLIENT, layout.QUALITY,
        )
    )
)  # fmt: skip
scalars = (
    st.sampled_from(
        ["0.0.0.0", "10.0.0.1", "0:0:0:0:0:0", "off", "SQ", "raw", "auto", "10.0.0.0/8", "127.0.0.1:1"]
    )
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=70)
    | st.integers(-(2**63), 2**63)
    | st.integers(0, 300)
    | st.floats()
    | st.booleans()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
documents = st.fixed_dictionaries(
    {"topic": st.lists(st.dictionaries(keys, values, max_size=6), max_size=3)},
    optional={
        key: st.dictionaries(keys, values, max_size=4)
        for key in ("broker", "fastpath", "quality", "limits", "control")
    }
    | {"client": st.lists(st.dictionaries(keys, values, max_size=4), max_size=2)},
) | st.dictionaries(keys, values)


def toml(value: Any) -> str:
    """A value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def read_or_refuse(text: str) -> None:
    try:
        config = parse(text, "x.toml")
    except ConfigError as error:
        problems = error.problems
    else:
        assert parse(dump(config)) == config
        return
    assert problems
    assert all(problem.startswith("x.toml: ") and "\n" not in problem for problem in problems)


@given(documents)
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_document_is_read_or_refused_with_reasons(document: dict[str, Any]) -> None:
    read_or_refuse("".join(f"{toml(key)} = {toml(value)}\n" for key, value in document.items()))


@given(st.text() | st.text(alphabet='[]={}",.\n#topic 01-"\'\\'))
@settings(max_examples=400, deadline=None)
def test_any_text_is_read_or_refused_with_reasons(text: str) -> None:
    read_or_refuse(text)


@pytest.mark.parametrize("number", [1, 254])
def test_the_bounds_themselves_are_allowed(number: int) -> None:
    text = f"""
        [broker]
        data_port = {number}
        [limits]
        batch = 1024
        datagram = 65507
        [[topic]]
        id = {number}
        name = "{"n" * MAX_BYTES}"
        priority = 7
    """
    assert parse(text).topics[0].topic.id == number


def test_the_broker_and_the_file_agree_on_whose_group_names_are_whose() -> None:
    assert membership.OWN_GROUP == OWN_GROUP
