"""Commands about a platform find the tokens that its Controller made, and say which one was refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tempos.cli import main
from tempos.cli.api import Api
from tempos.errors import RemoteError
from tempos_controller.commands import access
from tempos_daemon import token

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    "words",
    [
        ("workflow", "ls"), ("workflow", "show", "count"), ("workflow", "rm", "count"),
        ("workflow", "logs", "count"), ("workflow", "top", "--count", "1"), ("workflow", "apply", "FILE"),
        ("platform", "plan", "FILE"),
    ],
)  # fmt: skip
def test_every_command_brings_the_token_that_the_controller_made(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("default", "other"):
        (tmp_path / name / "tokens").mkdir(parents=True)
        (tmp_path / name / "tokens" / "controller").write_text(f"{TOKEN}-{name}\n")
    file = tmp_path / "platform.toml"
    file.write_text("")
    brought = []

    def ask(api: Api, *_: Any, **__: Any) -> Any:
        brought.append(api._token)
        raise RemoteError("asked")

    monkeypatch.setattr(Api, "_ask", ask)
    monkeypatch.setattr(access, "state_of", lambda _, name: tmp_path / name)
    monkeypatch.delenv("TEMPOS_CONTROLLER_TOKEN", raising=False)
    line = [str(file) if word == "FILE" else word for word in words]
    assert main(line) == main([*line, "--name", "other"]) == 1
    assert brought == [f"{TOKEN}-default", f"{TOKEN}-other"]


def test_lines_of_a_workflow_are_told_in_their_order_with_who_wrote_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = [
        {"where": "a on x", "lines": [{"time": 2.25, "pid": 7, "text": "second"}], "left_out": 3},
        {"where": "b on x", "lines": [{"time": 1.5, "pid": 8, "text": "first"}], "left_out": 0},
    ]
    monkeypatch.setattr(Api, "_ask", lambda *_: {"logs": logs, "away": ["invoker y"]})
    assert main(["workflow", "logs", "w"]) == 0
    told = capsys.readouterr()
    assert [line.split(".", 1)[1] for line in told.out.splitlines()] == [
        "500 b on x       8 first",
        "250 a on x       7 second",
    ]
    assert "a on x: 3 lines were left out there" in told.err
    monkeypatch.setattr(Api, "_ask", lambda *_: {"logs": [], "away": []})
    assert main(["workflow", "logs", "w"]) == 0
    assert capsys.readouterr().out == "its functions wrote nothing\n"


@pytest.mark.parametrize("words", [("function", "ls"), ("function", "logs", "count"), ("errors", "list")])
def test_the_invoker_of_a_platform_is_asked_with_the_token_that_was_made_for_it(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for node, port in (("far", 9985), ("local", 9995)):
        part = tmp_path / "default" / "parts" / f"invoker-{node}"
        part.mkdir(parents=True)
        made = tmp_path / f"made-{node}"
        made.write_text(f"{TOKEN}-{node}\n")
        (part / "invoker.toml").write_text(
            f'[invoker]\napi = "127.0.0.1:{port}"\napi_token_file = "{made}"\n'
        )
    (tmp_path / "default" / "parts" / "invoker-broken").mkdir()
    (tmp_path / "default" / "parts" / "invoker-broken" / "invoker.toml").write_text("[invoker")
    brought = []

    def ask(api: Api, *_: Any, **__: Any) -> Any:
        brought.append(api._token)
        raise api._refused(api.url, 401, "Unauthorized", b"")

    monkeypatch.setattr(Api, "_ask", ask)
    monkeypatch.setattr(token, "state_of", lambda _, name: tmp_path / name)
    monkeypatch.delenv("TEMPOS_TOKEN", raising=False)
    for port in (9995, 9985, 9975):
        assert main([*words, "--api", f"http://127.0.0.1:{port}"]) == 1
    assert brought == [f"{TOKEN}-local", f"{TOKEN}-far", ""]
    told = capsys.readouterr().err.splitlines()
    begins = f"tempos {words[0]}: the invoker at http://127.0.0.1"
    assert told[0].startswith(
        f"{begins}:9995 does not take the token in {tmp_path}/made-local: give that of "
    )
    assert told[2].startswith(f"{begins}:9975 asks for a token: give that of invoker.api_token ")
    assert all(line.endswith("by --token-file FILE or $TEMPOS_TOKEN") for line in told)
