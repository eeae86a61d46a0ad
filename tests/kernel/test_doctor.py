"""`tempos doctor` on this machine: what it finds is true, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.binding import binding_group
from support.privileges import require_kernel, require_netns
from support.refused import REASON, refused_fast_path

from tempos.doctor import Asked
from tempos.doctor.programs import with_sudo
from tempos_bench.nodes.topology import Topology, build
from tempos_fastpath.doctor import interfaces
from tempos_fastpath.starting import start

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

COMMAND = (sys.executable, "-m", "tempos", "doctor", "--json")
LIMIT = 300.0
#: What every kernel from 6.1 on has, wherever tests run.
EVERYWHERE = {f"TD{number}" for number in (101, 102, 105, 111, 113, 114, 115, 123, 133, 134, 135)}


@pytest.fixture(autouse=True)
def _privileged() -> None:
    require_kernel()
    require_netns()


def doctor(*options: str, prefix: tuple[str, ...] = ()) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        (*prefix, *COMMAND, *options), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def findings(document: dict[str, Any], code: str) -> list[dict[str, Any]]:
    return [each for area in document["areas"] for each in area["findings"] if each["code"] == code]


def left() -> set[Path]:
    """Whatever a doctor could leave."""
    places = (Path("/sys/fs/bpf"), Path("/run/tempos"), Path("/sys/fs/bpf/tempos"))
    return {path for place in places if place.is_dir() for path in place.glob("*doctor*")}


def test_it_finds_the_fast_path_by_sending_events_through_it_and_leaves_nothing() -> None:
    before = left()
    code, document = doctor()
    kernel = next(area["findings"] for area in document["areas"] if area["name"] == "kernel")
    lacking = [each for each in kernel if each["code"] in EVERYWHERE and not each["had"]]
    assert not lacking
    assert {each["code"] for each in kernel} >= EVERYWHERE
    assert not findings(document, "TD199"), "the trials came to their end"
    (generic,) = findings(document, "TD123")
    assert generic["cause"].startswith("64 of 64 events arrived (XDP generic")
    assert len(findings(document, "TD111")) >= 2, "the program of each mode"
    assert code == document["exit"] == 0
    assert left() == before


def test_inside_of_a_vrf_it_finds_the_same() -> None:
    """There every socket is bound by a number, which is another interface's in the doctor's namespace."""
    with binding_group() as prefix:
        code, document = doctor(prefix=prefix)
    (generic,) = findings(document, "TD123")
    assert generic["cause"].startswith("64 of 64 events arrived (XDP generic")
    assert code == 0


def test_who_asks_for_the_status_inside_of_a_vrf_and_gets_no_answer_is_told_what_it_takes() -> None:
    asking = (sys.executable, "-m", "tempos", "status", "--api", "http://127.0.0.1:9")
    # It names the interface of that number, which is one of these or of the kernel's own.
    named = 'ip link add blue type veth peer name green && exec "$@"'
    asking = ("unshare", "--net", "sh", "-c", named, "sh", *asking)
    with binding_group() as prefix:
        inside = subprocess.run(
            (*prefix, *asking), capture_output=True, text=True, timeout=LIMIT, check=False
        )
    outside = subprocess.run(asking, capture_output=True, text=True, timeout=LIMIT, check=False)
    told = re.search(r"bound to (\S+), as inside of a VRF", inside.stderr)
    assert told, inside.stderr
    assert f"`ip address add 127.0.0.1/8 dev {told[1]}`" in inside.stderr
    assert "no answer" in outside.stderr
    assert "VRF" not in outside.stderr
    assert inside.returncode == outside.returncode != 0


def test_a_kernel_that_refuses_the_program_is_told_with_the_whole_log_and_exit_code_1() -> None:
    with refused_fast_path():
        code, document = doctor("--log")
    assert code == document["exit"] == 1
    (fast,) = findings(document, "TD102")
    assert (fast["severity"], fast["had"]) == ("warning", False)
    assert fast["means"] == "the broker serves by the slow path"
    assert REASON in fast["cause"]
    for refused in findings(document, "TD111"):
        assert refused["had"] is False
        assert "\n" not in refused["cause"]
        assert refused["log"].splitlines()[-1].startswith("processed ")
    (native,) = findings(document, "TD121")
    assert native["cause"] == "its program is refused, as above"
    (counted,) = findings(document, "TD133")
    assert counted["had"], "what does not need it is tried all the same"


def test_without_privileges_it_says_what_it_could_not_try_and_how_to() -> None:
    powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    code, document = doctor(prefix=powerless)
    (privileges,) = findings(document, "TD101")
    assert (privileges["severity"], privileges["fix"]) == ("note", with_sudo("doctor"))
    assert "CAP_BPF" in privileges["cause"]
    (fast,) = findings(document, "TD102")
    assert (fast["severity"], fast["had"]) == ("unknown", None)
    assert code == 0


# Interfaces


Found = dict[tuple[str, str], tuple[bool | None, str]]


def look(asked: Asked) -> Found:
    return {(each.check, each.subject): (each.had, each.cause) for each in interfaces.gather(asked)}


def found(topology: Topology, asked: Asked) -> Found:
    return topology.broker.call(lambda: look(asked))


def test_interfaces_are_told_by_what_they_can_do_and_who_has_them() -> None:
    name = f"doctored-{os.getpid()}"

    async def served() -> Found:
        offload = await start(
            listen=["10.0.1.1"], port=9998, mode="native", interfaces=("eth0",), name=name, pin=False
        )
        try:
            return await asyncio.get_running_loop().run_in_executor(None, look, Asked())
        finally:
            await offload.close()

    with build("straight") as topology:
        asked = Asked(interfaces=("eth0", "nothing0", "lo"))
        free = found(topology, asked)
        tried = found(topology, Asked(interfaces=("eth0",), attach=True))
        only = found(topology, Asked(interfaces=("eth0",), attach=True, mode="generic"))
        nowhere = found(topology, Asked(listen=("192.0.2.1",)))
        off = found(topology, Asked(mode="off"))
        busy = topology.broker.call(lambda: asyncio.run(served()))
    assert free["TD201", "nothing0"] == (False, "there is no such interface")
    assert free["TD201", "lo"] == (False, "it is not an Ethernet interface")
    assert free["TD201", "eth0"][0] is not False
    assert tried["TD201", "eth0"] == (True, "native mode, tried")
    assert only["TD201", "eth0"] == (True, "generic mode, tried")
    assert nowhere == {("TD203", ""): (False, "no Ethernet interface carries 192.0.2.1")}
    assert off == {}
    had, cause = busy["TD201", "eth0"]
    assert had
    assert f"by the fast path of the broker {name!r} (process {os.getpid()})" in cause
