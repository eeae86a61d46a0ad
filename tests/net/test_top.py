"""`tempos top` as it is drawn in a terminal of 80 x 24: it follows a broker over its restart."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest
from support.brokers import Node
from support.waiting import LIMIT

from tempos.blocking import Publisher, Subscriber

COLUMNS, LINES = 80, 24
EVENTS = 200
TOPICS = """
[[topic]]
name = "plant/press/work"
id = 1
class = "SQ"

[[topic]]
name = "logs"
id = 2
"""


class Terminal:
    """A command in a terminal of its own; what it shows."""

    def __init__(self, *command: str, kind: str = "xterm-256color") -> None:
        self._pid, self._fd = pty.fork()
        if not self._pid:
            os.environ["TERM"] = kind
            os.execv(command[0], command)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)
        self.ended: int | None = None

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def until(self, what: str, holds: Callable[[list[str]], object]) -> list[str]:
        """Read on until the lines on the screen are so."""
        end = time.monotonic() + LIMIT
        while not holds(lines := [line.rstrip() for line in self.screen.display]):
            seen = "\n".join([f"not seen: {what}", *lines])
            assert self.ended is None, seen
            assert time.monotonic() < end, seen
            self._read()
        return lines

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        end = time.monotonic() + LIMIT
        while self.ended is None and time.monotonic() < end:
            self._read()
        assert self.ended is not None, self.screen.display
        return self.ended

    def close(self) -> None:
        if self.ended is None:
            os.close(self._fd)
            self.ended = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read(self) -> None:
        if select.select([self._fd], (), (), 0.1)[0]:
            try:
                self._stream.feed(os.read(self._fd, 1 << 16))
            except OSError:
                # The other end of a terminal is gone.
                self.close()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path, TOPICS, state=str(tmp_path / "state.db"))


@pytest.fixture
def top(node: Node) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(*options: str, kind: str = "xterm-256color") -> Terminal:
        command = (sys.executable, "-m", "tempos", "top", "--api", f"127.0.0.1:{node.api}", *options)
        made.append(Terminal(*command, kind=kind))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_it_follows_a_broker_and_its_next_life(node: Node, top: Callable[..., Terminal]) -> None:
    with node.broker():
        terminal = top()
        # Drawn from above to below.
        lines = terminal.until("topics", lambda lines: lines[-2] == "logs: the topic has no member")
        assert lines[0].endswith("nothing is wrong")
        assert [line.split()[:3] for line in lines[6:8]] == [
            ["logs", "BQ", "slow"],
            ["plant/press/work", "SQ", "slow"],
        ]
        with (
            Subscriber("127.0.0.1", "plant/press/work", group="g", control_port=node.control) as sub,
            Publisher("127.0.0.1", control_port=node.control, data_port=node.data) as pub,
        ):
            for _ in range(EVENTS):
                pub.publish("plant/press/work", b"x")
            for _ in range(EVENTS):
                assert sub.next(LIMIT).body == b"x"
            terminal.until("events", lambda lines: lines[3].startswith("0/s in") is False)
            terminal.press("njj\n")
            lines = terminal.until("members", lambda lines: "    127.0.0.1:" in "".join(lines))
            assert lines[5].startswith("plant/press/work  SQ  path slow")
            terminal.press("\x1b")
            terminal.until("topics again", lambda lines: lines[5].startswith("topic "))
            terminal.press("/pres\n")
            terminal.until(
                "what is looked for", lambda lines: lines[6].startswith("plant/press/work") and not lines[7]
            )
            terminal.press("c")
            terminal.until("changes", lambda lines: "joined group 'g' of plant/press/work" in "".join(lines))
    terminal.until("that it is away", lambda lines: "not live, as it was at" in lines[0])
    with node.broker():
        terminal.until("that it is there", lambda lines: lines[0].endswith("nothing is wrong"))
        terminal.press("q")
        assert terminal.wait() == 0


def test_without_a_broker_it_says_so(top: Callable[..., Terminal]) -> None:
    terminal = top()
    assert terminal.wait() == 1
    assert "Is the broker running" in "".join(terminal.screen.display)


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(node: Node, top: Callable[..., Terminal]) -> None:
    with node.broker():
        terminal = top("--interval", "0.2", kind="dumb")
        terminal.until("lines", lambda lines: sum(line.startswith("topic ") for line in lines) >= 2)
