"""Commands about a platform find the Controller's own token, whatever else they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tempos.cli import main
from tempos.cli.api import Api
from tempos.errors import RemoteError
from tempos_controller.commands import access

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
    monkeypatch.setattr(access, "usual_folder", lambda name: tmp_path / name)
    monkeypatch.delenv("TEMPOS_CONTROLLER_TOKEN", raising=False)
    line = [str(file) if word == "FILE" else word for word in words]
    assert main(line) == main([*line, "--name", "other"]) == 1
    assert brought == [f"{TOKEN}-default", f"{TOKEN}-other"]
