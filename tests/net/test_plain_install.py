"""`pip install .` on a machine without compilers, clang, libbpf or any extra: broker and clients work.

The package is installed into an empty folder by a build that finds no tool, then run by an interpreter
that sees that folder and msgpack, and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest
from support.ports import free_ports
from support.waiting import LIMIT, stands

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """
[broker]
listen = ["127.0.0.1"]
data_port = {data}
control_port = {control}
[state]
file = "off"
[[topic]]
id = 7
name = "news"
class = "SQ"
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of an interpreter with nothing but tempos and msgpack."""
    site = tmp_path_factory.mktemp("site")
    tools = tmp_path_factory.mktemp("tools")
    source = tmp_path_factory.mktemp("source") / "tempos"
    ignored = shutil.ignore_patterns(".git", ".venv", "*.so", "*.bpf.o", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, source, ignore=ignored)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TEMPOS_")}
    built = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index",
         "--disable-pip-version-check", "--target", str(site), str(source)],
        env={**environment, "PATH": str(tools), "CC": "no-compiler", "LDSHARED": "no-linker"},
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert not [*site.rglob("*.so"), *site.rglob("*.bpf.o")], "nothing native was built"
    shutil.copytree(Path(msgpack.__file__).parent, site / "msgpack")
    return {**environment, "PYTHONPATH": str(site), "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}


def tempos(*arguments: str) -> list[str]:
    # -S: none of this environment's own packages.
    return [
        sys.executable,
        "-S",
        "-c",
        "import sys; from tempos.cli import main; sys.exit(main())",
        *arguments,
    ]


def test_broker_and_clients_work_with_msgpack_alone(plain: dict[str, str], tmp_path: Path) -> None:
    data, control = free_ports(2)
    config = tmp_path / "broker.toml"
    config.write_text(CONFIG.format(data=data, control=control))
    broker = subprocess.Popen(
        tempos("broker", "-c", str(config)),
        env=plain,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    subscriber = None
    try:
        assert broker.stdout is not None
        ready = broker.stdout.readline()
        assert "slow path portable (the compiled helper cannot be loaded" in ready, ready + (
            broker.stderr.read() if broker.stderr else ""
        )
        assert "tempos doctor says why" in ready
        assert "api off: install tempos[broker]" in ready
        assert "fast path none" in ready
        ports = ("--control-port", str(control))
        subscriber = subprocess.Popen(
            tempos("sub", "-t", "news", *ports, "--count", "2", "--timeout", "30", "--json"),
            env=plain, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert "news" in stands(subscriber.stderr), "tells when the subscription stands"
        for body in ("first", "second"):
            subprocess.run(
                tempos("pub", "-t", "news", *ports, "--data-port", str(data), "-m", body),
                env=plain, check=True, timeout=LIMIT, capture_output=True,
            )  # fmt: skip
        output, _ = subscriber.communicate(timeout=LIMIT)
        events = [json.loads(line) for line in output.splitlines()]
        assert [(event["body"], event["delivery_sequence"]) for event in events] == [
            ("first", 0),
            ("second", 1),
        ]
    finally:
        for process in (subscriber, broker):
            if process is not None:
                process.terminate()
                process.communicate(timeout=LIMIT)
    assert broker.returncode == 0


def run(plain: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        tempos(*arguments), env=plain, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", ["status", "ledger"])
def test_commands_that_need_the_api_say_what_brings_it(plain: dict[str, str], command: str) -> None:
    (nobody,) = free_ports(1)
    code, out, err = run(plain, command, "--api", f"http://127.0.0.1:{nobody}")
    assert (code, out) == (1, "")
    assert err.endswith(": pip install 'tempos[broker]'\n")
    assert "starlette" in err
    _, _, elsewhere = run(plain, command, "--api", "http://broker.invalid:1", "--token-file", "/dev/null")
    assert "pip install" not in elsewhere, "a broker elsewhere is another installation's"


def test_the_demo_says_what_to_install_and_starts_nothing(plain: dict[str, str]) -> None:
    code, out, err = run(plain, "demo")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert "starlette" in line
    assert line.endswith("pip install 'tempos[broker,fastpath,bench]'")


def test_the_doctor_tells_what_is_not_installed_and_how_to_have_it(plain: dict[str, str]) -> None:
    code, out, err = run(plain, "doctor", "--json")
    assert (code, err) == (0, ""), "what was never installed is no fault"
    document = json.loads(out)
    findings = [finding for area in document["areas"] for finding in area["findings"]]
    packages = {each["subject"]: each for each in findings if each["code"] == "TD001"}
    assert packages.keys() == {"tempos[broker]", "tempos[fastpath]", "tempos[bench]", "tempos[invoker]"}
    for subject, each in packages.items():
        assert (each["severity"], each["fix"]) == ("note", f"pip install '{subject}'")
    (fast,) = (each for each in findings if each["code"] == "TD102")
    assert fast["had"] is not True
    assert fast["fix"] == "pip install 'tempos[fastpath]'"
