"""The log of daemons: for people and for machines, floods told once with a count."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from support.waiting import until

from tempos_broker.account.changes import Changes, Kind
from tempos_daemon import logs


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What goes to standard error; the log is as it was afterwards."""
    root, stream = logging.getLogger(), io.StringIO()
    before, level = root.handlers[:], root.level
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=stream))
    monkeypatch.setenv(logs.VARIABLE, "")
    root.handlers = []
    yield stream
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level = before, level


def test_a_line_for_machines_is_an_object_with_what_was_given_besides(written: io.StringIO) -> None:
    logs.configure("info", "json")
    log = logging.getLogger("tempos.tried")
    log.debug("not asked for")
    log.info("a %s", "line", extra={"topic": "alarms"})
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("it failed")
    first, second = map(json.loads, written.getvalue().splitlines())
    assert {name: first[name] for name in ("level", "logger", "message", "topic")} == {
        "level": "info", "logger": "tempos.tried", "message": "a line", "topic": "alarms",
    }  # fmt: skip
    assert first["time"].endswith("Z")
    assert "ValueError: no" in second["exception"]
    # So that what this daemon starts logs alike.
    assert logs.os.environ[logs.VARIABLE] == "json"


def test_changes_tell_what_changed_in_fields_of_their_own(written: io.StringIO) -> None:
    logs.configure("info", "json")
    Changes().tell(Kind.PATH, "alarms goes by the fast path: as asked for", topic="alarms")
    told = json.loads(written.getvalue())
    assert (told["change"], told["topic"]) == ("path", "alarms")
    assert "as asked for" in told["message"]


def test_a_flood_is_cut_and_counted_and_hides_nothing_else(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "WINDOW", 0.2)
    logs.configure("info", "text")
    log = logging.getLogger("tempos.tried")
    for number in range(logs.AT_ONCE + 50):
        log.warning("refused %d", number)
    log.warning("another thing")
    until(lambda: "more like this" in written.getvalue(), written.getvalue)
    lines = written.getvalue().splitlines()
    assert sum("refused" in line for line in lines) == logs.AT_ONCE + 1
    assert sum("another thing" in line for line in lines) == 1
    (told,) = [line for line in lines if "more like this" in line]
    assert f"50 more like this in 0.2 s, the last: refused {logs.AT_ONCE + 49}" in told
    log.warning("refused again")
    assert written.getvalue().endswith("refused again\n")


def test_what_was_left_out_is_told_at_the_end_at_the_latest(written: io.StringIO) -> None:
    logs.configure("debug", "json")
    log = logging.getLogger("tempos.tried")
    for number in range(logs.AT_ONCE + 3):
        log.info("line %d", number)
        log.debug("detail %d", number)
    (handler,) = logging.getLogger().handlers
    handler.close()
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert lines[-1]["left_out"] == 3
    assert sum(line["level"] == "debug" for line in lines) == logs.AT_ONCE + 3


def test_an_unknown_format_in_the_environment_is_text(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(logs.VARIABLE, "xml")
    logs.configure("info", who="worker: ")
    logging.getLogger("tempos.tried").info("hello")
    assert written.getvalue().endswith(" INFO tempos.tried: worker: hello\n")
