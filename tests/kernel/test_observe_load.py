"""Nothing is lost of 100,000 events a second by any tool: it tells what was done, and its account says so.

The shell of cd-snoop and the frames of xdpwhy are made where those tools are tested.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import functions
from support.observing import Line, Observed, undisturbed
from support.privileges import require_kernel, require_tracepoints

pytestmark = pytest.mark.kernel
_SOURCE = Path(__file__).parents[1] / "support" / "load.c"
_NAME, _COUNT, _RATE = f"load-{os.getpid()}", 100_000, 100_000
#: What there is from Linux 6.3 on; the tools say so themselves.
_NEEDS = {"udpwait": ("sk_data_ready",), "socketio": ("sock_recv_length",)}
Done = dict[str, Any]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_kernel()
    return functions.program(tmp_path_factory.mktemp("load"), "load", "-pthread", source=_SOURCE)


@contextmanager
def loading(program: Path, act: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that is about to do this act."""
    place = folder / "read-fast" if act == "reads" else folder
    (folder / "read-fast").touch()
    # Programs start as fast as they do.
    count = _COUNT // 100 if act == "execs" else _COUNT
    process = subprocess.Popen(
        [program, act, _NAME, str(count), str(_RATE), place],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def counts(lines: list[Line]) -> Counter[tuple[Any, ...]]:
    found: Counter[tuple[Any, ...]] = Counter()
    for line in lines:
        if line["type"] == "count":
            key = tuple(value for name, value in line.items() if name not in ("type", "count"))
            found[key] += line["count"]
    return found


def events(lines: list[Line], *keys: str) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(line[key] for key in keys) for line in lines if line["type"] == "event")


def table(lines: list[Line], name: str) -> list[Line]:
    return [line for line in lines if line["type"] == "row" and line["table"] == name]


def opensnoop(lines: list[Line], done: Done) -> None:
    assert events(lines, "pid", "path", "err")[done["pid"], "/dev/null", 0] == _COUNT


def scread(lines: list[Line], done: Done) -> None:
    assert counts(lines)["filename", "read-fast"] == _COUNT


def filelife(lines: list[Line], done: Done) -> None:
    assert events(lines, "pid", "file") == {(done["pid"], "brief"): _COUNT}


def sockstat(lines: list[Line], done: Done) -> None:
    assert counts(lines)["", "sys_exit_socket"] == _COUNT


def sofamily(lines: list[Line], done: Done) -> None:
    assert counts(lines) == {("connect", _NAME, 2, "AF_INET"): _COUNT}


def soprotocol(lines: list[Line], done: Done) -> None:
    assert counts(lines) == {("connect", _NAME, 17, "IPPROTO_UDP", "UDP"): _COUNT}


def socketio(lines: list[Line], done: Done) -> None:
    who = (_NAME, done["pid"])
    wanted = {(name, *who, way, "UDP"): times * _COUNT for name, times in (("io", 1), ("bytes", 8))
              for way in ("read", "write")}  # fmt: skip
    assert counts(lines) == wanted


def udpwait(lines: list[Line], done: Done) -> None:
    (row,) = table(lines, "waits")
    assert (row["lport"], row["read"], row["unknown"]) == (done["port"], _COUNT, 0)


def udploss(lines: list[Line], done: Done) -> None:
    (row,) = table(lines, "losses")
    assert (row["lport"], row["datagrams"]) == (done["port"], _COUNT - done["kept"])


def net_pagefault(lines: list[Line], done: Done) -> None:
    for name, port in (("udp_sent", "dport"), ("udp_received", "lport")):
        (row,) = table(lines, name)
        assert (row[port], row["count"], row["bytes"]) == (done["port"], _COUNT, 8 * _COUNT)


def tcp_latency(lines: list[Line], done: Done) -> None:
    assert events(lines, "pid", "dport", "error") == {(done["pid"], done["port"], None): _COUNT}


def execsnoop(lines: list[Line], done: Done) -> None:
    assert sum(line["type"] == "event" for line in lines) == _COUNT // 100


def runqlat(lines: list[Line], done: Done) -> None:
    (histogram,) = (line for line in lines if line["type"] == "histogram")
    told = sum(count for _, _, count in histogram["buckets"])
    # At both ends a switch or two is seen by one of them alone.
    assert done["given"] >= 2 * _COUNT
    assert told == pytest.approx(done["given"], abs=10)


def pauses(lines: list[Line], done: Done) -> None:
    assert {pid for (pid,) in events(lines, "pid")} <= {done["pid"]}


@undisturbed
@pytest.mark.parametrize(("act", "check", "more"), [
    ("opens", opensnoop, ()), ("reads", scread, ()), ("lives", filelife, ()), ("sockets", sockstat, ()),
    ("joins", sofamily, ()), ("joins", soprotocol, ()), ("datagrams", socketio, ()),
    ("datagrams", udpwait, ()), ("datagrams", net_pagefault, ()), ("overflow", udploss, ()),
    ("connects", tcp_latency, ()), ("connects", tcp_latency, ("--whole",)), ("execs", execsnoop, ()),
    ("switches", runqlat, ()), ("switches", pauses, ()),
], ids=lambda value: getattr(value, "__name__", None) or "".join(value))  # fmt: skip
def test_nothing_is_lost(
    program: Path, tmp_path: Path, act: str, check: Callable[[list[Line], Done], None], more: tuple[str, ...]
) -> None:
    name = check.__name__.replace("net_", "net-").replace("tcp_", "tcp-")
    require_tracepoints(*_NEEDS.get(name, ()))
    with loading(program, act, tmp_path) as load:
        who = ("--comm", program.name) if act == "execs" else ("--pid", str(load.pid))
        with Observed(name, *who, *more, into=tmp_path / "told") as tool:
            assert load.stdin is not None
            assert load.stdout is not None
            load.stdin.write("\n")
            load.stdin.flush()
            done = json.loads(load.stdout.readline())
            lines = tool.stop()
    assert lines[-1]["lost"] == dict.fromkeys(lines[-1]["lost"], 0)
    check(lines, done)
