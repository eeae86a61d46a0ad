"""``tempos config``, ``tempos broker``: what they print, where, and how they exit."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tempos_broker import command
from tempos_broker.config import load

GOOD = '[[topic]]\nid = 1\nname = "a"\n[[topic.member]]\nip = "10.0.0.1"\n'
THESIS = '[[topic]]\ntopic_value = 7\n[[topic.address]]\nip = "10.0.0.1"\nmac = "2:0:0:0:0:1"\n'


def tempos(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="tempos")
    subparsers = parser.add_subparsers(required=True)
    command.broker(subparsers)
    command.config(subparsers)
    options = parser.parse_args(arguments)
    code: int = options.run(options)
    return code


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.toml"


def test_check_prints_one_line_for_a_sound_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD)
    assert tempos("config", "check", str(file)) == 0
    assert capsys.readouterr() == (f"{file}: ok, 1 topic, 1 static member\n", "")
    assert tempos("config", "check", "--json", str(file)) == 0
    assert json.loads(capsys.readouterr().out) == {
        "file": str(file), "ok": True, "topics": 1, "static_members": 1, "problems": [],
    }  # fmt: skip


def test_check_prints_every_fault_on_standard_error(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD + "port = 0\nport_ = 1\n")
    assert tempos("config", "check", str(file)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split()[1] for line in err.splitlines()] == [
        "topic[0].member[0].port",
        "topic[0].member[0].port_",
    ]
    assert tempos("config", "check", "--json", str(file)) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert report["problems"] == err.splitlines()


def test_import_prints_or_writes_the_native_format(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(THESIS)
    assert tempos("config", "import", str(file)) == 0
    printed = capsys.readouterr().out
    output = file.with_name("out.toml")
    assert tempos("config", "import", str(file), "-o", str(output)) == 0
    assert output.read_text() == printed
    assert 'name = "topic-7"' in printed
    assert load(output) == load(file)


def test_import_writes_nothing_where_there_is_nothing_to_convert(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = file.with_name("out.toml")
    for text in (GOOD, "[[topic]]\ntopic_value = 0", "["):
        file.write_text(text)
        assert tempos("config", "import", str(file), "-o", str(output)) == 1
        assert capsys.readouterr().err.startswith(f"{file}: ")
        assert not output.exists()
    file.write_text(THESIS)
    assert tempos("config", "import", str(file), "-o", str(file.parent)) == 1
    assert (
        capsys.readouterr().err == f"tempos config import: {file.parent} cannot be written: Is a directory\n"
    )


@pytest.mark.parametrize("words", [("broker",), ("config",), ("config", "check"), ("config", "import")])
def test_help_has_examples(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        tempos(*words, "--help")
    assert left.value.code == 0
    assert f"\nexamples:\n  tempos {words[0]}" in capsys.readouterr().out


def test_adding_the_commands_imports_nothing_they_need_only_when_they_run() -> None:
    script = (
        "import sys, tempos_broker.command\n"
        "heavy = {'tempos_broker.config', 'tempos_broker.__main__', 'asyncio', 'uvloop', 'tomllib'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
