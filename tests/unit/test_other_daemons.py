"""Every command that asks a daemon, and somebody else at its address: a word and a code, no traceback."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tempos._api import DAEMON
from tempos.cli.main import main

DAEMONS = ("broker", "controller", "trigger", "invoker")
#: What asks whom. FILE is a platform's file.
_ASKING = {
    "broker": (
        "status", "status --json", "ledger", "ledger --json", "ctl topics", "ctl route a", "ctl path a slow",
        "ctl drain a g 1.2.3.4:5", "ctl remove a g 1.2.3.4:5", "ctl let-in a g 1.2.3.4:5", "ctl kept-out",
        "ctl reload", "ctl ready", "ctl topic add a", "ctl topic set a --priority 1", "ctl topic remove a",
        "ctl topic list",
    ),
    "invoker": (
        "function ls", "function ls --json", "function invoke f -m x", "function logs f", "errors list",
        "errors show 1", "errors redrive --all", "errors redrive 1", "errors redrive 1 --json",
    ),
    "controller": (
        "platform plan FILE", "platform ls", "platform ls node --json", "platform rm node n", "workflow ls",
        "workflow ls --json", "workflow show w", "workflow apply FILE",
        "workflow rm w", "workflow logs w", "workflow top --count 1",
    ),
}  # fmt: skip
COMMANDS = {command: daemon for daemon, commands in _ASKING.items() for command in commands}
PLATFORM = """
[[function]]
name = "f"
mode = "python"
entry = "os:getcwd"
[[workflow]]
name = "w"
topic = "a"
[[workflow.step]]
function = "f"
"""


class Somebody(http.server.BaseHTTPRequestHandler):
    """Answers whatever it is asked with :attr:`said`, as the daemon :attr:`name`."""

    name, said = "", b"{}"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.said)))
        if self.name:
            self.send_header(DAEMON, self.name)
        self.end_headers()
        self.wfile.write(self.said)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Somebody) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(command: str, url: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    (folder / "platform.toml").write_text(PLATFORM)
    words = [str(folder / "platform.toml") if word == "FILE" else word for word in command.split()]
    before = 1 if words[0] in ("status", "ledger", "ctl") else 2
    code = main([*words[:before], "--api", url, *words[before:]])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_another_daemon_is_told_by_its_name(
    command: str,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in DAEMONS:
        if name != COMMANDS[command]:
            monkeypatch.setattr(Somebody, "name", name)
            code, told = run(command, url, tmp_path, capsys)
            assert code == 1, told
            assert f"{url} is the API of the {name}, and not of the" in told
            assert len(told.splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_what_makes_no_sense_is_no_answer(
    command: str,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for said in (b"{}", b"[]", b"3", b"null", b'"text"', b"[[]]", b'{"changes": 3, "workflows": [3]}'):
        monkeypatch.setattr(Somebody, "said", said)
        code, told = run(command, url, tmp_path, capsys)
        if "--json" not in command and "invoke" not in command:
            assert (said, code, told.count("not of this version")) in ((said, 1, 1), (said, 0, 0)), told
