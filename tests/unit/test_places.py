"""Where a broker is, as people write it: in every command, in the environment, with ports."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.minibroker import MiniBrokerThread

from tempos import LocalError, Topic, blocking
from tempos.admin import Admin
from tempos.cli import main, trace
from tempos.cli.api import Api
from tempos.session.place import Place, api_at, broker_at, ports_at, usual_api
from tempos_fastpath import command
from tempos_fastpath.survival import orphans

HEAT = Topic(7, "heat")


@pytest.fixture
def broker() -> Iterator[MiniBrokerThread]:
    with MiniBrokerThread(HEAT) as broker:
        yield broker


def test_what_people_write_is_taken_apart_in_one_place() -> None:
    assert broker_at("10.0.1.1") == Place("10.0.1.1")
    assert broker_at("b.example:9") == Place("b.example", 9)
    assert broker_at("10.0.1.1:9:10") == Place("10.0.1.1", 9, 10)
    assert api_at("https://x/y") == "https://x/y"
    assert api_at("[::1]:80") == "http://[::1]:80"
    assert api_at("::1", 9993) == "http://[::1]:9993"
    assert api_at("x:80") == "http://x:80"


@pytest.mark.parametrize("text", ["", ":9", "h:", "h:0", "h:65536", "h:x", "h:1:2:3", "h/x", "http://h",
                                  "[::1", "[::1]9", "[h]:1", "[::1]:1", "::1", "h:²"])  # fmt: skip
def test_what_leads_nowhere_is_told(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LocalError, match=r".+"):
        broker_at(text)
    assert main(["pub", "-b", text, "-t", "heat", "-m", "x"]) == 2
    assert "argument -b/--broker: " in capsys.readouterr().err


def test_ports_come_with_the_host_by_option_or_environment(
    broker: MiniBrokerThread, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"127.0.0.1:{broker.control_port}:{broker.data_port}"
    assert main(["pub", "-b", where, "-t", "heat", "-m", "x"]) == 0
    monkeypatch.setenv("TEMPOS_BROKER", where)
    assert main(["pub", "-t", "heat", "-m", "x"]) == 0
    assert main(["sub", "-t", "heat", "-q", "--timeout", "0.05"]) == 0
    with monkeypatch.context() as patch:

        def asked(host: str, **options: object) -> None:
            raise LocalError(f"{host}:{options['control_port']}:{options['data_port']}")

        patch.setattr(blocking, "Publisher", asked)
        assert main(["request", "-t", "heat"]) == 1
        assert where in capsys.readouterr().err
    # Options say more than either.
    monkeypatch.setenv("TEMPOS_BROKER", "127.0.0.1:1:2")
    told = ["--control-port", str(broker.control_port), "--data-port", str(broker.data_port)]
    assert main(["pub", *told, "-t", "heat", "-m", "x"]) == 0


def test_the_api_is_on_the_host_of_the_broker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TEMPOS_API", raising=False)
    monkeypatch.setenv("TEMPOS_BROKER", "127.0.0.9:5:6")
    assert usual_api() == Admin().url == "http://127.0.0.9:9996"
    for words in (["status"], ["ledger"], ["ctl", "topics"]):
        main(words)
        assert "127.0.0.9" in capsys.readouterr().err, words
    with monkeypatch.context() as patch:

        def asked(options: argparse.Namespace) -> None:
            raise LocalError(Api.of(options).url)

        # A command that asks a broker by another way as well asks the API of that one.
        patch.setattr(trace, "run", asked)
        for told, host in ([], "127.0.0.9"), (["-b", "127.0.0.6:5"], "127.0.0.6"):
            assert main(["trace", *told, "heat"]) == 1
            assert f"http://{host}:9996" in capsys.readouterr().err
    monkeypatch.setenv("TEMPOS_API", "127.0.0.8:1")
    assert main(["status"]) == 1
    assert "http://127.0.0.8:1" in capsys.readouterr().err
    assert main(["status", "--api", "127.0.0.7:1"]) == 1
    assert "http://127.0.0.7:1" in capsys.readouterr().err
    assert Admin("127.0.0.7:1").url == "http://127.0.0.7:1"
    for words in (["status"], ["function", "ls"], ["workflow", "ls"]):
        assert main([*words, "--api", "127.0.0.7:x"]) == 2, words
        assert "is not a port" in capsys.readouterr().err


def test_fast_paths_that_one_may_not_look_for_are_not_said_to_be_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = tmp_path / "closed"
    closed.write_text("not to be looked into")
    monkeypatch.setattr(orphans, "BPFFS", closed)
    monkeypatch.setattr(orphans, "installed", lambda: ())
    assert main(["fastpath", "list"]) == command._CANNOT
    out, err = capsys.readouterr()
    assert out == ""
    assert f"there may be more: cannot look into {closed}" in err
    assert main(["fastpath", "clean", "--all"]) == command._CANNOT


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("broker", ("broker", 9997, 9998)),
        ("broker:1", ("broker", 1, 9998)),
        ("broker:1:2", ("broker", 1, 2)),
    ],
)
def test_clients_take_ports_where_the_broker_is_named(text: str, found: tuple[str, int, int]) -> None:
    assert ports_at(text, 9997) == found
    # What is said by itself holds.
    assert ports_at(text, 7, 8) == (found[0], 7, 8)
    for wrong in ("a:b", "a:0", "::1", "udp://a", ""):
        with pytest.raises(LocalError):
            ports_at(wrong, 9997)
