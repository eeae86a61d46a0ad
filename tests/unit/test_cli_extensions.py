"""Commands that other packages bring: loaded alone, and told of where they are missing or broken."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tempos import ConfigError
from tempos.cli import extensions
from tempos.cli.main import main, parser_of


def test_commands_of_other_packages_are_loaded_alone_and_break_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[str] = []

    def point(name: str, register: Any) -> SimpleNamespace:
        def load() -> Any:
            loaded.append(name)
            if isinstance(register, Exception):
                raise register
            return register

        return SimpleNamespace(name=name, load=load, dist=SimpleNamespace(name=f"{name}-package"))

    def working(subparsers: Any) -> None:
        parser = subparsers.add_parser("extra", help="an extra")
        parser.add_argument("--code", type=int)
        parser.set_defaults(run=lambda options: options.code)

    def failing(error: Exception) -> Any:
        def register(subparsers: Any) -> None:
            def run(options: object) -> int:
                raise error

            subparsers.add_parser("config").set_defaults(run=run)

        return register

    points = [
        point("extra", working),
        point("wrong", RuntimeError("no good")),
        point("broker", ModuleNotFoundError("No module named 'uvloop.loop'", name="uvloop.loop")),
        point("config", failing(ConfigError(["broker.toml: port is 0"]))),
    ]
    monkeypatch.setattr(extensions, "_entry_points", lambda: points)
    monkeypatch.setitem(sys.modules, "tempos_broker.command", None)
    assert main(["pub", "--help"]) == main(["--help"]) == 0
    assert loaded == []
    assert "from the package extra-package" in capsys.readouterr().out
    assert main(["extra", "--code", "5"]) == 5
    assert main(["wrong", "--any", "thing"]) == 2
    assert "no good" in capsys.readouterr().err
    assert main(["broker", "-c", "broker.toml"]) == 2
    assert capsys.readouterr().err == (
        "tempos broker: needs uvloop, which is not installed: pip install 'tempos[broker]'\n"
    )
    assert main(["demo"]) == 2
    assert "tempos[bench]" in capsys.readouterr().err
    assert main(["config"]) == 2
    assert capsys.readouterr().err == "tempos config: broker.toml: port is 0\n"
    assert loaded == ["extra", "wrong", "broker", "config"]


def test_the_help_knows_every_command_of_the_project_by_its_own_words() -> None:
    """The list is shown without loading any of them, so it has their texts a second time."""
    declared = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    table = declared.partition('[project.entry-points."tempos.commands"]\n')[2].partition("\n\n")[0]
    assert {line.partition(" = ")[0] for line in table.splitlines()} == extensions.OWN.keys()
    known = _texts("")
    for name, (text, _) in extensions.OWN.items():
        # Nothing of other commands is made, let alone imported.
        assert _texts(name) == {name: text}
        assert known[name] == text


def _texts(chosen: str) -> dict[str, str | None]:
    """What the help has of the commands."""
    (commands,) = (each for each in parser_of(chosen)._actions if each.dest == "command")
    assert isinstance(commands, argparse._SubParsersAction)
    return {each.dest: each.help for each in commands._choices_actions}


def test_a_broker_that_is_missing_or_broken_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tempos_broker.command", None)
    assert main(["broker", "-c", "broker.toml"]) == 2
    assert capsys.readouterr().err == (
        "tempos broker: needs tempos_broker, which is not installed: pip install 'tempos[broker]'\n"
    )
    monkeypatch.setitem(sys.modules, "tempos_broker.command", ModuleType("command"))
    assert main(["broker", "-c", "broker.toml"]) == 2
    assert "tempos broker: this command is broken:" in capsys.readouterr().err
