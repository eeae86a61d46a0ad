"""The terminal of `tempos top`: draws the state, hears keys. By :mod:`curses`, which knows terminals."""

from __future__ import annotations

import contextlib
import curses
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from tempos.cli.api import Api
from tempos.cli.live.follow import Follower
from tempos.cli.live.state import State
from tempos.cli.live.views import Line, Sort, Style, View, Wish, listed, screen
from tempos.errors import TemposError

#: Milliseconds after which what has come is drawn though nobody touched a key.
_TICK = 200
_SORTS = {"r": Sort.RATE, "l": Sort.LAG, "o": Sort.LOSS, "t": Sort.LATENCY, "n": Sort.NAME}
_ESCAPE, _ENTER, _BACK = "\x1b", ("\n", "\r"), ("\x7f", "\b")
_COLORS = {
    Style.GOOD: curses.COLOR_GREEN, Style.WARNING: curses.COLOR_YELLOW, Style.FAULT: curses.COLOR_RED,
}  # fmt: skip
#: Milliseconds for the rest of a key that begins with Escape.
_ESCAPE_DELAY = 25


def show(api: Api, sort: str) -> int:
    """Show it until Ctrl-C or q; raises :class:`TemposError` where there is nothing to show."""
    top = _Top(api, Sort(sort))
    top.follower.start()
    try:
        with contextlib.suppress(AttributeError):
            curses.set_escdelay(_ESCAPE_DELAY)
        curses.wrapper(top.run)
    finally:
        top.follower.stop()
    return 0


class _Top:
    def __init__(self, api: Api, sort: Sort) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._state = State()
        self._wish = Wish(sort=sort)
        self._news = True
        self.follower = Follower(api, self._take, self._trouble)
        self._looks: threading.Thread | None = None

    # --- on the follower's thread -----------------------------------------------------------------

    def _take(self, whole: bool, step: Mapping[str, Any]) -> None:
        with self._lock:
            self._state.take(step, whole)
            self._news = True

    def _trouble(self, text: str) -> None:
        with self._lock:
            self._state.trouble = text
            self._news = True

    # --- on the terminal's ------------------------------------------------------------------------

    def run(self, window: curses.window) -> None:
        """Until q."""
        styles = _styles()
        with contextlib.suppress(curses.error):
            curses.curs_set(0)
        window.timeout(_TICK)
        drawn = False
        while True:
            key = self._key(window)
            if key is not None and not self._press(key, window.getmaxyx()[0]):
                return
            with self._lock:
                news = self._news and not (self._wish.still and not self._state.trouble)
                if news or key is not None or not drawn:
                    height, width = window.getmaxyx()
                    lines = screen(self._state, self._wish, width, height)
                    self._news = self._news and not news
                else:
                    continue
            drawn = True
            _draw(window, lines, styles)
            if news and self._wish.opened is not None:
                self._look()

    @staticmethod
    def _key(window: curses.window) -> str | int | None:
        try:
            return window.get_wch()
        except curses.error:
            return None

    def _press(self, key: str | int, height: int) -> bool:
        """Do what a key says; whether to go on."""
        wish = self._wish
        if wish.finding:
            self._type(key)
            return True
        page = max(height - 8, 1)
        steps = {
            curses.KEY_UP: -1, "k": -1, curses.KEY_DOWN: 1, "j": 1, curses.KEY_PPAGE: -page,
            curses.KEY_NPAGE: page, curses.KEY_HOME: -(1 << 30), curses.KEY_END: 1 << 30,
        }  # fmt: skip
        with self._lock:
            if key == "q":
                return False
            if key in steps:
                wish.chosen += steps[key]
            elif isinstance(key, str) and key in _SORTS:
                wish.sort = _SORTS[key]
                self._over(View.TOPICS)
            elif key in ("f", "c"):
                self._over(View.FINDINGS if key == "f" else View.CHANGES)
            elif key == "?":
                self._over(View.TOPICS)
                wish.keys = True
            elif key == "/":
                self._over(View.TOPICS)
                wish.finding, wish.find = True, ""
            elif key == " ":
                wish.still = not wish.still
                self._news = True
            elif key in _ENTER or key == curses.KEY_ENTER:
                self._open()
            elif key == _ESCAPE:
                if wish.view is View.TOPICS and wish.opened is None and not wish.keys:
                    wish.find = ""
                self._over(View.TOPICS)
        return True

    def _type(self, key: str | int) -> None:
        wish = self._wish
        with self._lock:
            if key in _ENTER or key == curses.KEY_ENTER:
                wish.finding = False
            elif key == _ESCAPE:
                wish.finding, wish.find = False, ""
            elif key in _BACK or key == curses.KEY_BACKSPACE:
                wish.find = wish.find[:-1]
            elif isinstance(key, str) and key.isprintable():
                wish.find += key
            wish.chosen = wish.top = 0

    def _over(self, view: View) -> None:
        wish = self._wish
        wish.view, wish.opened, wish.members, wish.keys = view, None, None, False
        wish.chosen = wish.top = 0

    def _open(self) -> None:
        wish = self._wish
        found = listed(self._state, wish)
        if wish.view is View.TOPICS and wish.opened is None and not wish.keys and wish.chosen < len(found):
            topic = found[wish.chosen].told["id"]
            self._over(View.TOPICS)
            wish.opened = topic
            self._news = True
        else:
            self._over(View.TOPICS)

    def _look(self) -> None:
        """Ask for the members of the topic that is opened, beside all else."""
        if self._looks is not None and self._looks.is_alive():
            return
        with self._lock:
            topic = self._state.topics.get(self._wish.opened or 0)
        if topic is None:
            return
        self._looks = threading.Thread(target=self._ask, args=(topic.told["id"], topic.name), daemon=True)
        self._looks.start()

    def _ask(self, number: int, name: str) -> None:
        # That the broker is away the follower tells.
        with contextlib.suppress(TemposError):
            document = self._api.get(f"/v1/topics/{quote(name, safe='')}")
            with self._lock:
                if self._wish.opened == number:
                    first = self._wish.members is None
                    self._wish.members = document
                    self._news = self._news or first


def _styles() -> dict[Style, int]:
    styles = {
        Style.PLAIN: curses.A_NORMAL, Style.STRONG: curses.A_BOLD, Style.SOFT: curses.A_DIM,
        Style.GOOD: curses.A_NORMAL, Style.WARNING: curses.A_BOLD, Style.FAULT: curses.A_BOLD,
        Style.HEAD: curses.A_UNDERLINE, Style.CHOSEN: curses.A_REVERSE,
    }  # fmt: skip
    with contextlib.suppress(curses.error):
        # A terminal may have none.
        curses.start_color()
        curses.use_default_colors()
        for pair, (style, color) in enumerate(_COLORS.items(), start=1):
            curses.init_pair(pair, color, -1)
            styles[style] |= curses.color_pair(pair)
    return styles


def _draw(window: curses.window, lines: list[Line], styles: Mapping[Style, int]) -> None:
    window.erase()
    for row, line in enumerate(lines):
        column = 0
        for text, style in line:
            # Into the last corner curses writes, and says that it cannot go on from there.
            with contextlib.suppress(curses.error):
                window.addstr(row, column, text, styles[style])
            column += len(text)
    window.refresh()
