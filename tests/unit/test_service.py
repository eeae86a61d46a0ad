"""Daemons as services: units of systemd, an image, a DaemonSet; and the word of the watchdog."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.waiting import LIMIT

from tempos import __version__
from tempos.cli.main import parser_of
from tempos_broker.config import parse
from tempos_broker.privileges import FAST_PATH, START_FAST_PATH
from tempos_daemon import watchdog

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted(ROOT.glob("config/systemd/*.service"))
TEMPOS = "/opt/tempos/bin/tempos"
#: How exposed a unit may be, as `systemd-analyze security` reckons, times ten. Functions may need anything,
#: and the platform's unit has functions and a broker.
EXPOSED = {"broker": 35, "trigger": 20, "invoker": 45, "controller": 60}


def settings(unit: Path) -> Iterator[tuple[str, str]]:
    """What a unit sets, in order, keys as often as they stand there."""
    for line in unit.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            yield key, value


def commands(unit: Path) -> list[list[str]]:
    found = (value.lstrip("+-@!") for key, value in settings(unit) if key.startswith("Exec"))
    return [words for words in map(shlex.split, found) if words[0] == TEMPOS]


def understood(words: list[str]) -> bool:
    """Whether the command line takes them."""
    with contextlib.suppress(SystemExit):
        return parser_of(words[0]).parse_args(words) is not None
    return False


@pytest.fixture
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """One whose program is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    there = tmp_path / request.param.name
    there.write_text(request.param.read_text().replace(TEMPOS, "/bin/true"))
    return there


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem, indirect=True)
def test_systemd_finds_no_fault_in_a_unit_and_little_exposed(unit: Path) -> None:
    for check in (
        ("verify", str(unit)),
        ("security", "--offline=true", f"--threshold={EXPOSED[unit.stem[7:]]}", str(unit)),
    ):
        done = subprocess.run(
            ("systemd-analyze", *check), capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_a_unit_starts_reloads_and_watches_its_daemon_by_commands_that_there_are() -> None:
    assert {unit.stem for unit in UNITS} == {f"tempos-{daemon}" for daemon in EXPOSED}
    for unit in UNITS:
        found = commands(unit)
        assert len(found) == 2, "to start, and to find out before a reload whether the file is sound"
        assert all(understood(words[1:]) for words in found), found
        lines = dict(settings(unit))
        assert (lines["Type"], lines["WatchdogSec"], lines["RestartPreventExitStatus"]) == (
            "notify",
            "10",
            "2",
        )
        assert lines["ExecReload"].endswith("/bin/kill -HUP $MAINPID")


def test_the_broker_has_the_capabilities_that_it_asks_for_and_no_more() -> None:
    text = (ROOT / "config/systemd/tempos-broker.service").read_text()
    bounding = {
        name
        for value in re.findall("^CapabilityBoundingSet=(.*)$", text, re.M)
        for name in value.lower().replace("cap_", "").split()
    }
    becoming = {"chown", "fowner", "setuid", "setgid", "setpcap", "dac_read_search"}
    assert bounding == START_FAST_PATH | becoming
    words = (ROOT / "config/docs/pages/howto/service.md").read_text()
    assert {f"CAP_{name.upper()}" for name in FAST_PATH} <= set(re.findall(r"CAP_\w+", words))


def test_an_image_is_made_of_what_there_is_and_starts_a_broker() -> None:
    text = (ROOT / "config/container/Containerfile").read_text()
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if line and not line.startswith("#")]
    orders = [(line.split()[0], line.split()[1:]) for line in lines]
    assert {order for order, _ in orders} == {"FROM", "RUN", "COPY", "ENV", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    copied = [words[:-1] for order, words in orders if order == "COPY" and "--from=build" not in words]
    assert not [name for names in copied for name in names if not (ROOT / name).exists()]
    (extra,) = re.findall(r"/src\[(\w+)\]", text)
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
    by_order = dict(orders)
    entry, rest = (yaml.safe_load(" ".join(by_order[each])) for each in ("ENTRYPOINT", "CMD"))
    assert entry == [TEMPOS]
    assert understood(rest)


def test_a_daemon_set_is_whole_and_its_broker_is_told_what_it_understands() -> None:
    documents = list(yaml.safe_load_all((ROOT / "config/container/daemonset.yaml").read_text()))
    config, daemons = documents
    assert [each["kind"] for each in documents] == ["ConfigMap", "DaemonSet"]
    assert parse(config["data"]["broker.toml"], "broker.toml").api_token_file == "/run/secrets/tempos/token"
    spec: dict[str, Any] = daemons["spec"]["template"]["spec"]
    (broker,) = spec["containers"]
    assert broker["image"] == f"tempos:{__version__}"
    assert spec["hostNetwork"] is True
    assert daemons["spec"]["selector"]["matchLabels"] == daemons["spec"]["template"]["metadata"]["labels"]
    assert {each["name"] for each in broker["volumeMounts"]} == {each["name"] for each in spec["volumes"]}
    sources = {each["name"]: each for each in spec["volumes"]}
    assert sources["bpf"]["hostPath"]["path"] == "/sys/fs/bpf"
    assert sources["config"]["configMap"]["name"] == config["metadata"]["name"]
    wanted = {each.lower() for each in broker["securityContext"]["capabilities"]["add"]}
    assert wanted == START_FAST_PATH
    assert understood(broker["args"])
    probes = [broker[f"{name}Probe"]["exec"]["command"] for name in ("startup", "readiness", "liveness")]
    assert all(words[0] == "tempos" and understood(words[1:]) for words in probes), probes


# The watchdog


@pytest.mark.parametrize(
    ("limit", "whose", "seconds"),
    [
        ("3000000", "", 1.0),
        ("3000000", "me", 1.0),
        ("3000000", "1", None),
        ("0", "", None),
        ("x", "", None),
        ("", "", None),
    ],
)
def test_the_watchdog_is_who_asks_for_this_process(
    limit: str, whose: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", limit)
    monkeypatch.setenv("WATCHDOG_PID", whose.replace("me", str(os.getpid())))
    assert watchdog.interval() == seconds


HANGS = """
import signal, sys
from tempos_daemon import loop
from tempos_daemon.last_resort import LastResort
from tempos_daemon.signals import Signals

async def serving():
    import asyncio
    await asyncio.to_thread(sys.stdin.readline)
    hang()

def hang():
    print("hanging", flush=True)
    sys.stdin.readline()

loop.run(serving(), Signals(LastResort(1)))
"""


async def test_the_loop_tells_that_it_turns_and_one_that_hangs_says_where(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        manager.settimeout(LIMIT)
        told = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "60000"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HANGS, env={**os.environ, **told},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            for _ in range(3):
                assert await asyncio.to_thread(manager.recv, 100) == b"WATCHDOG=1"
            process.stdin.write(b"hang\n")
            assert await asyncio.wait_for(process.stdout.readline(), LIMIT) == b"hanging\n"
            manager.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while manager.recv(100):
                    pass
            # Longer than the manager would have waited.
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.get_running_loop().sock_recv(manager, 100), 0.2)
            process.send_signal(signal.SIGABRT)
            _, said = await asyncio.wait_for(process.communicate(), LIMIT)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == -signal.SIGABRT
    assert re.search(rb"in hang\n", said), said
