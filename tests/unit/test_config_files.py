"""Files: the two formats, what cannot be read at all, and the example that comes with tempos."""

from __future__ import annotations

import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import pytest
from support.waiting import LIMIT, until

from tempos import DATA_PORT, ConfigError, Framing, Quality, Topic, Unavailable
from tempos_broker.config import (
    BrokerConfig,
    ClientConfig,
    ControlConfig,
    FastPathConfig,
    FleetConfig,
    Limits,
    QualityConfig,
    StaticMember,
    TopicConfig,
    apart,
    layout,
    load,
    parse,
)
from tempos_broker.config.load import Format, format_of
from tempos_daemon.files import MOST, read_start

EXAMPLE = Path(__file__).resolve().parents[2] / "config" / "broker.toml"

THESIS = """
[[topic]]
topic_value = 1

    [[topic.address]]
    ip="10.0.0.211"
    mac="40:a6:b7:66:38:fb"

    [[topic.address]]
    ip="10.0.0.213"
    mac="2:0:0:0:0:a"

    [[topic.address]]
    ip="0.0.0.0"
    mac="0:0:0:0:0:0"

[[topic]]
topic_value = 2

    [[topic.address]]
    ip="0.0.0.0"
    mac="0:0:0:0:0:0"

[[topic]]
topic_value = 3
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse(text, "x.toml")
    return refused.value.problems


# The thesis's format


def test_the_thesis_format_is_read_directly() -> None:
    def topic(number: int) -> Topic:
        return Topic(number, f"topic-{number}", Quality.BQ, framing=Framing.RAW)

    members = (
        StaticMember("10.0.0.211", DATA_PORT, "members", "40:a6:b7:66:38:fb"),
        StaticMember("10.0.0.213", DATA_PORT, "members", "02:00:00:00:00:0a"),
    )
    assert parse(THESIS) == BrokerConfig(
        topics=(TopicConfig(topic(1), members), TopicConfig(topic(2)), TopicConfig(topic(3)))
    )
    assert format_of(THESIS) is Format.THESIS


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("topic_value = 255",
         "topic[0].topic_value is 255; allowed: an integer from 1 to 65534 but 255"),
        ("topic_value = 1\n[[topic]]\ntopic_value = 1",
         "topic[1].topic_value is 1, as topic[0].topic_value is; allowed: each once"),
        ('topic_value = 1\naddress = [{ip = "10.0.0.1"}]', "topic[0].address[0].mac is missing; "
         'allowed: a MAC address, "0:0:0:0:0:0" in padding'),
        ('topic_value = 1\naddress = [{ip = "10.0.0.1", mac = "0:0:0:0:0:0"}]',
         'topic[0].address[0].mac is "00:00:00:00:00:00", which is no address; allowed: '
         'the MAC address of one machine, such as "40:a6:b7:66:39:ba", or zero in both (padding)'),
        ('topic_value = 1\naddress = [{ip = "0.0.0.0", mac = "2:0:0:0:0:1"}]',
         'topic[0].address[0].ip is "0.0.0.0", which is no address of one machine; allowed: '
         'the IPv4 address of one machine, such as "10.0.0.7", or zero in both (padding)'),
        ('topic_value = 1\naddress = [{ip = "10.0.0.1", mac = "2:0:0:0:0:1"}, '
         '{ip = "10.0.0.1", mac = "2:0:0:0:0:2"}]',
         "topic[0].address[1] is 10.0.0.1:9998, as topic[0].address[0] is, and would get events twice; "
         "allowed: each endpoint once in a topic"),
        ("topic_value = 1\npadding = 2", "topic[0].padding is an unknown key; allowed: topic_value, address"),
    ],
)  # fmt: skip
def test_faults_of_the_thesis_format_are_told_in_its_own_words(text: str, fault: str) -> None:
    assert problems("[[topic]]\n" + text) == [f"x.toml: {fault}"]


def test_a_missing_number_is_one_fault() -> None:
    assert [problem.split(";")[0] for problem in problems("[[topic]]\naddress = []")] == [
        "x.toml: topic[0].topic_value is missing"
    ]


@pytest.mark.parametrize(
    ("text", "ours", "theirs"),
    [
        ('[[topic]]\nid = 1\nname = "a"\n[[topic]]\ntopic_value = 2', "topic[1].topic_value", "topic[0].id"),
        ("[broker]\n[[topic]]\ntopic_value = 2", "topic[0].topic_value", "broker"),
        ("[[topic]]\ntopic_value = 2\n[[topic.member]]", "topic[0].topic_value", "topic[0].member"),
    ],
)
def test_a_mixture_of_the_formats_is_refused_as_such(text: str, ours: str, theirs: str) -> None:
    assert problems(text) == [
        f"x.toml: mixes two formats: {ours} is of the thesis's, {theirs} of the broker's own; "
        "allowed: one of them (`tempos config import` turns the first into the second)"
    ]


# What cannot be read


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[broker]\nlisten = [1,\n2", "line 3, the end of the file: TOML syntax: Unclosed array"),
        ("a = 1\na = 2\n", "line 2, column 6: TOML syntax: Cannot overwrite a value"),
        ("\n= 1", "line 2, column 1: TOML syntax: Invalid statement"),
    ],
)
def test_syntax_errors_name_the_line(text: str, fault: str) -> None:
    assert problems(text) == [f"x.toml: {fault}"]


@pytest.mark.parametrize("text", ["id = " + "9" * 5000, "a = " + "[" * 100_000], ids=["digits", "depth"])
def test_what_the_toml_reader_itself_cannot_carry_is_a_fault_like_any(text: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith("x.toml: ")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"# fine\nname = \"caf\xe9\"\n", "line 2: byte 0xe9 is no UTF-8; allowed: UTF-8"),
        ("[broker]".encode("utf-16"), "is UTF-16; allowed: UTF-8"),
        (b"#" * (MOST + 1), f"larger than {MOST} bytes; a configuration is not"),
    ],
    ids=["latin-1", "utf-16", "size"],
)  # fmt: skip
def test_foreign_encodings_and_sizes(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert refused.value.problems == [f"{path}: {fault}"]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b'\xef\xbb\xbf[[topic]]\r\nid = 1\r\nname = "a"\r\n')
    assert load(str(path)).topics[0].topic.name == "a"


def test_paths_that_are_no_readable_file(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file or directory")):
        with pytest.raises(ConfigError) as refused:
            load(path)
        assert refused.value.problems == [f"{path}: cannot be read: {reason}"]
    with pytest.raises(ConfigError, match=r"cannot be read: embedded null"):
        load("a\0b")


def test_without_a_toml_reader_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tomllib" if sys.version_info >= (3, 11) else "tomli", None)
    with pytest.raises(Unavailable, match=r"pip install 'tempos\[broker\]'"):
        parse("")


def test_a_burst_that_is_left_out_is_what_the_rate_gives_in_10_ms() -> None:
    for keys, bucket in (("", 0), ("rate = 1", 1), ("rate = 5000", 50), ("rate = 5000\nburst = 7", 7)):
        assert parse(f'[[topic]]\nid = 1\nname = "a"\n{keys}').topics[0].topic.bucket == bucket


# The tables and the example


def test_every_option_of_the_model_has_a_key() -> None:
    for keys, model in (
        (layout.FASTPATH, FastPathConfig),
        (layout.LIMITS, Limits),
        (layout.QUALITY, QualityConfig),
        (layout.CONTROL, ControlConfig),
        (layout.MEMBER, StaticMember),
        (layout.CLIENT, ClientConfig),
        (layout.FLEET, FleetConfig),
    ):
        # Clients are a table of their own; that all have to sign, and who made one, is no file's to say.
        beside = ("clients", "signed", "origin")
        assert list(keys) == [field.name for field in fields(model) if field.name not in beside]


def test_the_example_shows_every_option_with_its_true_default() -> None:
    lines = EXAMPLE.read_text().splitlines()
    until = next(number for number, line in enumerate(lines) if line == "[[topic]]" and number) + 1
    first_topic = lines[until : lines.index("[[topic]]", until)]
    # Headers and what stands commented out: the file with nothing but defaults in it.
    defaults = [
        line.lstrip("#")
        for line in [*lines[:until], *first_topic]
        if re.match(r"\[|#\w+ = ", line) or line.startswith(("id =", "name ="))
    ]
    config = parse("\n".join(defaults))
    named = config.topics[0].topic
    assert config == BrokerConfig(topics=(TopicConfig(Topic(named.id, named.name)),))

    shown = set(re.findall(r"^#?(\w+) = ", "\n".join(lines), re.M))
    sections = [layout.BROKER, layout.FASTPATH, layout.LIMITS, layout.CONTROL, layout.TOPIC, layout.MEMBER,
                layout.CLIENT, layout.GROUP, layout.STATE, layout.QUALITY, layout.FLEET]  # fmt: skip
    assert shown == {key for keys in sections for key in keys} - {"member"}


def test_the_example_works_on_loopback_as_it_is_and_with_its_member() -> None:
    config = load(EXAMPLE)
    assert config.listen == ("127.0.0.1",)
    assert config.fastpath.mode == "off"
    assert {entry.topic.quality for entry in config.topics} == set(Quality)
    assert {entry.topic.framing for entry in config.topics} == {Framing.EVENT, Framing.RAW}
    assert not any(entry.members for entry in config.topics)

    before, _, member = EXAMPLE.read_text().partition("#[[topic.member]]")
    # Groups have options in foreign topics only.
    member, _, clients = re.split(r"^(# Options of a group|# Clients that sign)", member, flags=re.M)[::2]
    uncommented = re.sub(r"^#(?=\S)", "", "#[[topic.member]]" + member + "#" + clients, flags=re.M)
    last = parse(before + uncommented).topics[-1]
    assert last == replace(
        config.topics[-1],
        members=(StaticMember("127.0.0.1", 5000, "displays", "40:a6:b7:66:39:ba", "127.0.0.1"),),
    )
    assert f"Left out: {DATA_PORT}." in member


# A large file, read in a process of its own


def test_a_process_of_its_own_reads_the_same_faults_included(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    named = "".join(
        f'[[topic]]\nid = {id_}\nname = "größe/{id_}"\n' for id_ in range(256, 256 + 2 * apart.PIECE)
    )
    member = '[[topic.member]]\nip = "10.0.0.1"\n'
    key = f'[[client]]\nid = "c"\nkey = "{"0f" * 32}"\npublish = ["*"]\n'
    for text in (named + member + key, key, "", THESIS):
        file.write_text(text, encoding="utf-8")
        assert apart.Apart().load(file, read_start, large=0) == load(file)
    for text in ('[[topic]]\nid = 255\nname = ""\n', "]", "\ufeff["):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as expected:
            load(file)
        with pytest.raises(ConfigError) as refused:
            apart.Apart().load(file, read_start, large=0)
        assert refused.value.problems == expected.value.problems


def test_one_that_is_closed_ends_the_process_and_reads_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, sleeper = tmp_path / "broker.toml", tmp_path / "sleeper"
    file.write_text(THESIS)
    sleeper.write_text("#!/bin/sh\nexec sleep 600\n")
    sleeper.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    reader = apart.Apart()
    with ThreadPoolExecutor(1) as beside:
        loading = beside.submit(reader.load, file, read_start, large=0)
        until(lambda: bool(reader._running))
        (process,) = reader._running
        reader.close()
        with pytest.raises(Unavailable, match="is read no more: the broker stops"):
            loading.result(LIMIT)
    assert process.poll() == -signal.SIGKILL
    with pytest.raises(Unavailable, match="is read no more: the broker stops"):
        reader.load(file, read_start, large=0)


def test_a_process_that_cannot_be_had_or_ends_is_no_end_of_the_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(THESIS)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    assert apart.Apart().load(file, read_start, large=0) == load(file)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Unavailable, match=r"the process that checks it did not: .*exit status 1"):
        apart.Apart().load(file, read_start, large=0)
