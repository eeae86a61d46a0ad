"""A large configuration is read by pieces, and is what it is when it is read at once."""

from __future__ import annotations

import importlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tempos import ConfigError
from tempos_broker.config import parse
from tempos_daemon import toml

_parser = pytest.importorskip("tomllib" if importlib.util.find_spec("tomllib") else "tomli")
_HEAD = '[broker]\nname = "a" # [[topic]]\nlisten = ["127.0.0.1"]\n\n'


def _topics(count: int) -> str:
    return "".join(
        f'  [[topic]] # number {number}\nid = {number}\nname = "plant/{number}"\n'
        f'sources = [\n"192.0.2.0/24",\n]\nrate = 1.5\n[[topic.member]]\nip = "192.0.2.1"\n'
        for number in range(count)
    )


@pytest.fixture(autouse=True)
def _all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toml, "LARGE", 1)
    monkeypatch.setattr(toml, "RECURRING", 5)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_pieces_are_one_document(count: int, ends: str) -> None:
    text = (_HEAD + _topics(count)).replace("\n", ends)
    assert toml._by_pieces(text, _parser) == _parser.loads(text)


def test_the_same_text_is_one_object() -> None:
    first, *_, last = toml.document(_HEAD + _topics(100), "a")["topic"]
    assert all(a is b for a, b in zip(first, last, strict=True))
    assert first["member"][0]["ip"] is last["member"][0]["ip"]


_PLAIN = "".join(
    f'[[topic]]\nid = {number}\nname = "t{number}"\npath = "auto"\nsources = ["192.0.2.0/24"]\n\n# one\n'
    f'rate = 0\n[[topic.member]]\nip = "192.0.2.1"\nport = 9\n[[topic.member]]\nip = "192.0.2.2"\n'
    for number in range(40)
)


def test_what_a_line_says_is_of_its_table_alone() -> None:
    tables = toml.document(_HEAD + _PLAIN, "a")["topic"]
    assert tables == _parser.loads(_PLAIN)["topic"]
    tables[0]["sources"].append("198.51.100.0/24")
    tables[0]["member"][0]["port"] = 1
    assert tables[1:] == _parser.loads(_PLAIN)["topic"][1:]


def test_what_follows_the_first_lines_is_shared_where_that_is_asked_for() -> None:
    first, second, *_ = toml.document(_HEAD + _PLAIN, "a", shared=True)["topic"]
    assert first["member"] is second["member"]
    assert toml.document(_HEAD + _PLAIN, "a", shared=True) == _parser.loads(_HEAD + _PLAIN)


def test_faults_of_what_is_shared_are_told_of_each_place(monkeypatch: pytest.MonkeyPatch) -> None:
    topic = (
        '[[topic]]\nid = {0}\nname = "{1}"\n[[topic.member]]\nip = "{2}"\nport = 9998\n'
        '[[topic.member]]\nip = "192.0.2.1"\nmac = "{3}"\n'
    )
    own = "".join(topic.format(number, f"t{number}", "127.0.0.1", "02:00:00:00:00:01") for number in (1, 2))
    bad = "".join(topic.format(number, f"t{number}", "192.0.2.2", "no") for number in (1, 2))
    for text, paths in ((own, ["topic[0].member[0]", "topic[1].member[0]"]),
                        (bad, ["topic[0].member[1].mac", "topic[1].member[1].mac"])):  # fmt: skip
        with pytest.raises(ConfigError) as shared:
            parse(text, "a")
        assert [problem.split()[1] for problem in shared.value.problems] == paths
        monkeypatch.setattr(toml, "LARGE", 1 << 30)
        with pytest.raises(ConfigError) as whole:
            parse(text, "a")
        assert shared.value.problems == whole.value.problems
        monkeypatch.setattr(toml, "LARGE", 1)


_LINES = st.sampled_from(
    [
        "[[topic]]", " [[topic]] ", "[[topic]]#", "[[topic.member]]", "[[topic.member]] # b",
        "[topic.member]", "[[topic.member.x]]", "[topic]", "[[other]]", "[other]", "[[topic.group]]",
        "member = []", "group = 1", "a = 1", "a = 2", '"a" = 1', "a.b = 1", "a = { b = 1 }", "a = [", "]",
        "a = [[1], [2]]", "b = []", "b = ['x', 'x']", "c = 1979-05-27", "d = nan#", "", "  ", "# e",
        "e = 'x' \t", "\ta = 1", "f = \x01", "= 1", "a", "a = 1 b = 2", "\r", "a = 1\r",
        'b = "\\u00e9é"', "'b' = 07", "g = 0", "g=18 ", "g = 07", "g = 1234567890123456789", 'g = ""',
        'h-1 = "é#" ',
        'h = "a\tb"', 'h = "a\x7f"', 'h = "a" "b"', 'h = "a"#', "-0 = 1", 'h = "\\"', "h = 1_0", 'é = 1',
    ]
)  # fmt: skip


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_LINES, max_size=12))
def test_any_lines_are_what_they_are_at_once(lines: list[str]) -> None:
    text = "\n".join(["[[topic]]", *lines])
    try:
        expected = _parser.loads(text)
    except _parser.TOMLDecodeError:
        for shared in (False, True):
            with pytest.raises(ConfigError):
                toml.document(text, "a", shared=shared)
    else:
        for shared in (False, True):
            assert repr(toml.document(text, "a", shared=shared)) == repr(expected)


@pytest.mark.parametrize(
    "text",
    [
        _HEAD,
        _HEAD + _topics(5) + "[limits]\ntopics = 10\n",
        'topic = [{ name = "a" }]\n' + _HEAD,
        _HEAD + _topics(5) + 'note = """\n[[topic]]\nname = 1\n"""\n',
        _HEAD + _topics(5) + "note = '''\n[[topic]]\nname = 1\n'''\n",
        "[[other]]\na = 1\n" + _HEAD + _topics(5),
        _HEAD + _topics(5) + "[[other]]\na = 1\n" + _topics(4),
        '[["topic"]]\nid = 1\n' + _topics(4),
    ],
)
def test_whatever_else_there_is_it_is_the_same(text: str) -> None:
    assert toml.document(text, "a") == _parser.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        _HEAD + _topics(5) + "ip = 3\n",
        _HEAD + "list = [\n" + _topics(5) + "]\n",
        "topic = []\n" + _topics(5),
        "[topic]\n" + _topics(5),
        _HEAD + _topics(5) + "[[topic.member.ip]]\n",
        _HEAD + _topics(5) + "[broker]\n",
        _HEAD + _topics(5) + "x = " + "[" * 5000,
        _HEAD + _topics(5) + "x = " + "9" * 5000,
    ],
)
def test_a_fault_is_told_as_of_the_whole(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as by_pieces:
        toml.document(text, "a")
    monkeypatch.setattr(toml, "LARGE", 1 << 30)
    with pytest.raises(ConfigError) as whole:
        toml.document(text, "a")
    assert by_pieces.value.problems == whole.value.problems
