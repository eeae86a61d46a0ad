"""The commands of the client package: output, exit codes, what is said when something is wrong."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.beside import beside
from support.minibroker import MiniBrokerThread
from support.waiting import LIMIT, stands

from tempos import Framing, Topic, control, wire
from tempos.cli import bodies, extensions, ledger, main, status
from tempos.cli.progress import Progress
from tempos.cli.pub import _paced

HEAT = Topic(7, "heat")
RAW = Topic(8, "raw", framing=Framing.RAW)


@pytest.fixture
def broker() -> Iterator[MiniBrokerThread]:
    with MiniBrokerThread(HEAT, RAW) as broker:
        yield broker


def tempos(*arguments: str, **options: Any) -> AbstractContextManager[subprocess.Popen[str]]:
    return beside([sys.executable, "-m", "tempos", *arguments], stdin=subprocess.DEVNULL, **options)


def ports(broker: MiniBrokerThread, *, data: bool = False) -> list[str]:
    control_port = ["--control-port", str(broker.control_port)]
    return control_port + (["--data-port", str(broker.data_port)] if data else [])


def publish(broker: MiniBrokerThread, *arguments: str) -> int:
    return main(["pub", *ports(broker, data=True), *arguments])


def test_what_is_published_is_printed(
    broker: MiniBrokerThread, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempos("sub", *ports(broker), "-t", "heat", "-t", "raw", "--count", "9", "--timeout", "9") as plain:
        with tempos("sub", *ports(broker), "-t", "heat", "--json", "--count", "8", "--stats") as as_json:
            for process in (plain, as_json):
                assert stands(process.stderr).startswith("subscribed to heat")
            assert publish(broker, "-t", "heat", "-m", "21.5 °C") == 0
            assert publish(broker, "-t", "heat", "--json", "-m", '{"c": [1, null]}') == 0
            assert publish(broker, "-t", "heat", "--size", "3", "--count", "2", "--rate", "1000") == 0
            lines = io.TextIOWrapper(io.BytesIO(b"one\r\ntwo\nthree"))
            monkeypatch.setattr(sys, "stdin", lines)
            assert publish(broker, "-t", "heat", "-l", "--count", "2", "--linger", "0.001") == 0
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[1]\n\n{}\n")))
            assert publish(broker, "-t", "heat", "--json") == 0
            assert publish(broker, "-t", "raw", "-m", "r") == 0
            out, err = as_json.communicate(timeout=LIMIT)
            rows = [json.loads(line) for line in out.splitlines()]
            assert [row["encoding"] for row in rows] == [
                "text", "msgpack", "text", "text", "text", "text", "msgpack", "msgpack",
            ]  # fmt: skip
            assert rows[1]["body"] == {"c": [1, None]}
            assert [row["delivery_sequence"] for row in rows] == [0, 1, 2, 3, 4, 4, 5, 6]
            assert {row["missed"] for row in rows} == {0}
            assert 0 <= rows[0]["latency_s"] < 10
            account = json.loads(err)["stats"]
            assert (account["events"], account["datagrams"], account["missed"]) == (8, 7, 0)
            assert as_json.returncode == 0
        out, _ = plain.communicate(timeout=LIMIT)
        expected = ["21.5 °C", '{"c": [1, null]}', "xxx", "xxx", "one", "two", "[1]", "{}"]
        assert out.splitlines() == [f"heat {body}" for body in expected] + ["raw r"]
        assert plain.returncode == 0
    assert capsys.readouterr().err == ""


def test_a_subscription_without_events_ends_by_its_timeout(
    broker: MiniBrokerThread, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sub", *ports(broker), "-t", "heat", "-q", "--timeout", "0.05"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["sub", *ports(broker), "-t", "heat", "--count", "2", "--timeout", "0.05"]) == 1
    assert "0 of 2 events, then none for 0.05 s" in capsys.readouterr().err


def said(process: subprocess.Popen[str]) -> tuple[str, list[str]]:
    """All that it said, but for what is true on a machine that lets it wait: nobody has answered yet."""
    out, err = process.communicate(timeout=LIMIT)
    lines = err.splitlines()
    return out, [each for each in lines if "answered for" not in each and "again, after" not in each]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_cleanly_with_a_goodbye(broker: MiniBrokerThread, number: int, code: int) -> None:
    with tempos("sub", *ports(broker), "-t", "heat") as process:
        assert stands(process.stderr)
        assert broker.core.members("heat")
        process.send_signal(number)
        assert said(process) == ("", [])
        assert process.returncode == code
    assert broker.core.seen["goodbye"] == 1
    assert broker.core.members("heat") == []


def test_an_interrupt_while_nobody_answers_is_quiet(broker: MiniBrokerThread) -> None:
    broker.deaf = True
    heard = threading.Event()
    broker.core.heard = heard.set
    with tempos("sub", *ports(broker), "-t", "heat") as process:
        assert heard.wait(LIMIT)
        process.send_signal(signal.SIGINT)
        assert said(process) == ("", [])
        assert process.returncode == 130


def test_a_reader_that_has_enough_ends_the_subscriber(broker: MiniBrokerThread) -> None:
    with tempos("sub", *ports(broker), "-t", "heat", "-q") as process:
        assert broker.wait(lambda: broker.core.members("heat"))
        assert process.stdout is not None
        process.stdout.close()
        datagram = wire.encode_event(7, 1, 0, 0, b"x")
        # The first write after the close may still be taken.
        deadline = time.monotonic() + LIMIT
        while process.poll() is None and time.monotonic() < deadline:
            for endpoint in broker.core.members("heat"):
                broker.send(datagram, endpoint)
            broker.wait(lambda: process.poll() is not None, 0.02)
        assert process.wait(LIMIT) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert broker.core.members("heat") == []


def test_errors_are_one_readable_line(
    broker: MiniBrokerThread, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(code: int, *arguments: str) -> str:
        assert main(list(arguments)) == code
        out, err = capsys.readouterr()
        assert out == ""
        return err

    given = ports(broker, data=True)
    unknown = error(1, "pub", *given, "-t", "cold", "-m", "x")
    assert unknown == "tempos pub: no topic 'cold' (unknown topic); known: heat, raw\n"
    deep = error(1, "pub", *given, "-t", "heat", "--json", "-m", "[" * 100_000)
    assert deep.startswith("tempos pub: the body is not JSON: ")
    assert "line 2 is not JSON" in _with_stdin(
        b"1\n{\n", monkeypatch, lambda: error(1, "pub", *given, "-t", "heat", "--json")
    )
    assert "raw" in error(1, "pub", *given, "-t", "raw", "--json", "-m", "{}")
    assert "what to publish?" in error(2, "pub", "-t", "heat")
    assert "'0' is not a number above 0" in error(2, "pub", "-t", "heat", "-m", "x", "--rate", "0")
    assert "'70000' is not a UDP port, 1-65535" in error(2, "sub", "-t", "heat", "--port", "70000")
    assert "required: -t" in error(2, "sub")
    monkeypatch.setattr(control, "RETRY_AFTER", (0.01,))
    broker.deaf = True
    assert f"127.0.0.1:{broker.control_port}" in error(1, "sub", *given[:2], "-t", "heat")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = str(closed.getsockname()[1])
    broker.deaf = False
    monkeypatch.setattr(control, "RETRY_AFTER", (5.0,))
    refused = error(1, "pub", *given[:2], "--data-port", nobody, "-t", "heat", "-m", "x")
    assert f"refused 1 of 1 events: nobody listens on UDP port {nobody}" in refused


def _with_stdin(data: bytes, monkeypatch: pytest.MonkeyPatch, work: Any) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return work()


def test_help_lists_every_command_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in ("pub", "sub", "status", *extensions.OWN):
        assert f"\n    {name} " in out
    for name in ("pub", "sub", "status", "ledger", "ctl", "reload", "completion"):
        assert main([name, "--help"]) == 0
        assert "examples:" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tempos 0.")
    assert main([]) == 2
    assert "usage" in capsys.readouterr().out
    assert main(["shout"]) == 2
    assert "invalid choice: 'shout'" in capsys.readouterr().err


DOCUMENT = {
    "broker": {"version": "0.1.0", "pid": 7, "uptime_s": 3723.4, "instance": 42, "ready": True},
    "paths": {
        "slow": {
            "io": "recvmmsg",
            "reason": "64 per call",
            "listen": ["0.0.0.0:9998"],
            "receive_buffer": 8388608,
            "queued": 3,
        },
        "fast": {
            "mode": "generic",
            "reason": "eth1 has no XDP",
            "interfaces": [{"name": "eth1", "mode": "generic", "reason": "the driver has no XDP"}],
            "kernel": {"release": "6.1.0-9", "lacks": ["it has no links of tc programs"]},
            "passed": {"not_udp": 12},
        },
    },
    "topics": [
        {
            "id": 7,
            "name": "heat",
            "origin": "run-time",
            "class": "SQ",
            "priority": 3,
            "framing": "event",
            "policy": "auto",
            "path": "fast",
            "reason": "offloaded",
            "epoch": 4,
            "received": 1234567,
            "fast": 1234000,
            "slow": 560,
            "refused": {"bad_version": 5, "no_member": 2},
            "problems": [],
            "groups": [
                {
                    "name": "g",
                    "tickets": 1234560,
                    "delivered": 1234550,
                    "unconfirmed": 8,
                    "lost": 0,
                    "unknown": 2,
                    "members": [
                        {
                            "ip": "10.0.2.2",
                            "port": 5000,
                            "static": False,
                            "lease_s": 9.25,
                            "delivered": 1234550,
                        },
                        {"ip": "10.0.2.3", "port": 9998, "static": True, "lease_s": None, "delivered": None},
                    ],
                }
            ],
        },
        {
            "id": 8,
            "name": "raw",
            "origin": "file",
            "class": "BQ",
            "priority": 0,
            "framing": "raw",
            "rate": 5000,
            "burst": 50,
            "overflow": "drop",
            "policy": "slow",
            "path": "slow",
            "reason": "configured",
            "epoch": 1,
            "received": 0,
            "fast": 0,
            "slow": 0,
            "refused": {},
            "problems": ["3 events were handed to groups, but 2 tickets drawn"],
            "groups": [],
        },
    ],
    "unattributed": {"empty": 2, "unknown_topic": 30},
}


QUALITY = {
    "sockets": "classic",
    "reason": "a program of 31 instructions; not ebpf: switched off",
    "share_bq": 10,
    "classes": {
        "SQ": {"queued": 1, "queue": 4096, "overruns": 0, "dscp": 46, "so_priority": 6, "reason": ""},
        "BQ": {
            "queued": 2000, "queue": 4096, "overruns": 1234, "dscp": 0, "so_priority": 0,
            "reason": "SO_PRIORITY 7: Operation not permitted",
        },
    },
    "worker": {"state": "off", "reason": "not asked for", "pid": None, "broker_cpus": [0, 1]},
}  # fmt: skip


def test_status_says_what_keeps_the_classes_apart() -> None:
    lines = list(status.render({**DOCUMENT, "quality": QUALITY}))
    start = lines.index("quality")
    assert lines[start + 1 : start + 6] == [
        "  sockets classic: a program of 31 instructions; not ebpf: switched off",
        "  SQ  1 of 4,096 queued, 0 lost unread; DSCP 46, priority 6",
        "  BQ  2,000 of 4,096 queued, 1,234 lost unread; DSCP 0, priority 0",
        "      not as it was asked for: SO_PRIORITY 7: Operation not permitted",
        "  BQ gets 10 % of what is sent, also while SQ waits",
    ]


def test_status_reads_well() -> None:
    lines = list(status.render(DOCUMENT))
    assert lines == [
        "broker 0.1.0, ready, pid 7, up 1 h 2 min, instance 42",
        "",
        "paths",
        "  fast  generic: eth1 has no XDP",
        "        eth1  generic: the driver has no XDP",
        "        kernel 6.1.0-9: it has no links of tc programs",
        "        passed up before a topic was read: 12 not_udp",
        "  slow  recvmmsg: 64 per call",
        "        listens on 0.0.0.0:9998; receive buffer 8,388,608 bytes; 3 queued",
        "",
        "topics",
        "  id  name  made      class  priority  framing  path  epoch   received       fast  slow  refused",
        "   7  heat  run-time  SQ            3  event    fast      4  1,234,567  1,234,000   560        7",
        "   8  raw   file      BQ            0  raw      slow      1          0          0     0        0",
        "",
        "routes",
        "  heat  (policy auto: fast, offloaded)",
        "    refused: 5 bad_version, 2 no_member",
        "    group g: 1,234,560 tickets, 1,234,550 delivered, 8 unconfirmed, 2 unknown",
        "      10.0.2.2:5000  lease 9.2 s, delivered 1,234,550",
        "      10.0.2.3:9998  static, delivered unknown",
        "  raw  (policy slow: slow, configured)",
        "    at most 5,000 datagrams/s, 50 at once; what is beyond is dropped",
        "    does not add up: 3 events were handed to groups, but 2 tickets drawn",
        "    no member",
        "",
        "of no topic: 30 unknown_topic, 2 empty",
    ]


def test_status_asks_the_api_and_says_what_is_wrong_with_the_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers = iter(
        [
            (200, json.dumps(DOCUMENT)),
            (200, json.dumps(DOCUMENT)),
            (200, '{"broker": 1}'),
            (200, "<html>"),
            (503, "{}"),
        ]
    )

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, text = next(answers)
            self.send_response(code if self.path == "/v1/status" else 404)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    def serve(server: HTTPServer) -> None:
        for _ in range(5):
            server.handle_request()

    with HTTPServer(("127.0.0.1", 0), Api) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=serve, args=[server])
        thread.start()
        assert main(["status", "--api", url]) == 0
        assert "offloaded" in capsys.readouterr().out
        assert main(["status", "--api", url + "/", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == DOCUMENT
        for words in ("not of this version", "not JSON", "503"):
            assert main(["status", "--api", url]) == 1
            assert words in capsys.readouterr().err
        thread.join()
    assert main(["status", "--api", url]) == 1
    assert "Is the broker running" in capsys.readouterr().err
    assert main(["status", "--api", "file:///etc/passwd"]) == 2


LEDGER = {
    "balanced": False,
    "topics": [
        {
            "id": 7,
            "name": "heat",
            "epoch": 4,
            "received": 1207,
            "fast": 1000,
            "slow": 200,
            "refused": {"bad_version": 5, "no_member": 2},
            "unsent": {},
            "balanced": True,
            "problems": [],
            "groups": [
                {
                    "name": "g",
                    "tickets": 1200,
                    "delivered": 778,
                    "dropped": 12,
                    "unconfirmed": 8,
                    "lost": 2,
                    "unknown": 400,
                    "members": [
                        {"ip": "10.0.2.2", "port": 5000, "static": False, "left": False, "ticketed": 400,
                         "delivered": 380, "dropped": 12, "unconfirmed": 8, "lost": 0, "overruns": 3},
                        {"ip": "10.0.2.2", "port": 5001, "static": False, "left": True, "ticketed": 400,
                         "delivered": 398, "unconfirmed": 0, "lost": 2},
                        {"ip": "10.0.2.3", "port": 9998, "static": True, "left": False, "ticketed": 400,
                         "delivered": None, "unconfirmed": 0, "lost": 0},
                    ],
                }
            ],
        },
        {"id": 8, "name": "raw", "epoch": 1, "received": 3, "fast": 0, "slow": 3, "refused": {}, "unsent": {},
         "balanced": False, "problems": ["3 events were handed to groups, but 2 tickets drawn"],
         "groups": []},
    ],
    "unattributed": {"empty": 2},
}  # fmt: skip


def test_the_ledger_reads_well() -> None:
    assert list(ledger.render(LEDGER)) == [
        "heat  received 1,207 = fast 1,000 + slow 200 + refused 7",
        "  refused: 5 bad_version, 2 no_member",
        "  group, member             tickets  delivered  dropped  unconfirmed  lost  unknown",
        "  g                           1,200        778       12            8     2      400",
        "    10.0.2.2:5000               400        380       12            8     0        0",
        "    10.0.2.2:5001 (left)        400        398        0            0     2        0",
        "    10.0.2.3:9998 (static)      400          0        0            0     0      400",
        "  10.0.2.2:5000 lost at least 3 for want of room in its socket",
        "",
        "raw  received 3 = fast 0 + slow 3 + refused 0",
        "  no group",
        "  does not add up: 3 events were handed to groups, but 2 tickets drawn",
        "",
        "of no topic: 2 empty",
        "NOT BALANCED",
    ]


def test_the_ledger_commands_exit_code_says_whether_it_balances(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            refuse = self.headers["Authorization"] is None
            self.send_response(401 if refuse else 200)
            self.end_headers()
            problem = {"title": "Unauthorized", "detail": "this broker's API needs a token"}
            self.wfile.write(json.dumps(problem if refuse else LEDGER).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    monkeypatch.delenv("TEMPOS_TOKEN", raising=False)
    token = tmp_path / "token"
    token.write_text("secret\n")
    with HTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        told = ["--api", f"http://127.0.0.1:{server.server_address[1]}", "--token-file", str(token)]
        assert main(["ledger", *told]) == 1
        assert main(["ledger", "heat", *told, "--json"]) == 0
        assert [
            topic["name"] for topic in json.loads(capsys.readouterr().out.split("BALANCED\n")[1])["topics"]
        ] == ["heat"]
        assert main(["ledger", "cold", *told]) == 1
        assert "known: heat, raw" in capsys.readouterr().err
        assert asked == [("/v1/ledger", "Bearer secret")] * 3
        assert main(["ledger", *told[:2]]) == 1
        assert "asks for a token" in capsys.readouterr().err
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("body", "encoding", "value"),
    [
        (b"", "text", ""),
        ("21.5 °C\n".encode(), "text", "21.5 °C\n"),
        (wire.encode_body({"a": [1, "x"]}), "msgpack", {"a": [1, "x"]}),
        (b"\x05", "msgpack", 5),
        (wire.encode_body([b"\xff"]), "hex", "91c401ff"),
        (b"\xff\xfe\x00", "hex", "fffe00"),
        (wire.encode_body(float("nan")), "hex", "cb7ff8000000000000"),
        (b"\x91" * 990 + b"\xc0", "hex", "91" * 990 + "c0"),
    ],
)
def test_bodies_are_told_by_their_bytes(body: bytes, encoding: str, value: object) -> None:
    assert bodies.describe(body) == (encoding, value)
    assert bodies.show(body)[:4] == (str(value) if encoding != "msgpack" else json.dumps(value))[:4]


def test_a_rate_is_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 100.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(round(seconds, 6))
        now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    for number, _ in enumerate(_paced(iter(range(6)), 10)):
        # The third takes long; those after it catch up.
        now += 0.25 if number == 2 else 0.01
    assert slept == [0.09, 0.09, 0.03]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_quiet_at_first(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    progress = Progress("events", 3000, stream)
    for done in range(3000):
        now = done / 100
        progress.update(done)
        if now < 1.9:
            assert stream.getvalue() == ""
    progress.finish(3000)
    told = stream.getvalue()
    assert "of 3,000 events, 100/s" in told
    assert "3,000 events in 30.0 s" in told
    assert told.count("events") == (57 if terminal else 3)
    assert os.linesep in told
