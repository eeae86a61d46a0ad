"""The Controller's live page in a real browser follows: workflows, calls, dead parts, changes, a restart."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pages import SOON, Browser, Page, expect, launched, page
from support.upping import TOKEN, Callers, running

PHONE = {"width": 390, "height": 844}
HOSTILE = "<img src=x onerror=document.body.remove()>"
FAILING = """
[[function]]
name = "fails"
mode = "python"
code = "fails.py"
entry = "fails:fails"
[[workflow]]
name = "second"
topic = "counts"
class = "SQ"
[[workflow.step]]
function = "fails"
result = "more"
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as started:
        yield started


def told(shown: Page, token: str = TOKEN) -> None:
    field = shown.locator("#token")
    field.fill(token)
    field.press("Enter")


def test_the_page_follows_the_platform(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path) as up, page(browser, up.ports["controller"], color_scheme="dark") as shown:
        told(shown)
        headline = shown.locator("#headline")
        expect(headline).to_have_text("Nothing is wrong", timeout=SOON)
        count = shown.locator(".flow", has=shown.get_by_text("count", exact=True).first)
        for part in ("http trigger on local", "texts", "group count/count", "workers: local 1/1", "counts"):
            expect(count).to_contain_text(part, timeout=SOON)
        expect(count).to_contain_text("slow")
        with Callers(up) as callers:
            callers.more()
            rate = count.locator(".num").first
            expect(rate).not_to_contain_text("0in/s", timeout=SOON)
            expect(count.locator("li", has_text="group count/count")).not_to_contain_text(
                "0/s in, 0/s done", timeout=SOON
            )
        expect(count).to_contain_text("0 waiting, 0 running", timeout=SOON)

        # Another workflow, of which every invocation fails.
        (tmp_path / "fails.py").write_text(f"def fails(body):\n    raise ValueError({HOSTILE!r})\n")
        (tmp_path / "second.toml").write_text(FAILING)
        assert up.tempos("workflow", "apply", str(tmp_path / "second.toml")).returncode == 0
        second = shown.locator(".flow", has=shown.get_by_text("second", exact=True))
        expect(second).to_contain_text("group second/fails", timeout=SOON)
        assert up.works()
        expect(headline).to_contain_text("failures: second, step fails", timeout=SOON)
        expect(shown.locator("#detail")).to_contain_text("1 error, of 1", timeout=SOON)
        expect(shown.locator("#remedy")).to_contain_text("tempos workflow logs second")
        # By keyboard.
        second.locator("button").focus()
        shown.keyboard.press("Enter")
        expect(second.locator(".chain")).to_have_count(0, timeout=SOON)

        invoker = shown.locator("#parts li", has_text="invoker local")
        hung = up.parts()["invoker local"]["pid"]
        os.kill(hung, signal.SIGSTOP)
        try:
            expect(headline).to_contain_text("away: invoker local", timeout=SOON)
            expect(invoker).to_contain_text("away for", timeout=SOON)
        finally:
            os.kill(hung, signal.SIGCONT)
        expect(invoker).to_contain_text("running", timeout=SOON)
        os.kill(hung, signal.SIGKILL)
        expect(shown.locator("#wrong")).to_contain_text("ended by SIGKILL", timeout=SOON)
        expect(invoker).to_contain_text("started again 1 time", timeout=SOON)
        expect(invoker).to_contain_text("running for", timeout=SOON)
        ended = shown.locator("#changes li", has_text="invoker-local ended by SIGKILL")
        expect(ended.first).to_be_visible(timeout=SOON)

        up.kill()
        expect(shown.locator("#stale")).to_contain_text("Not live", timeout=SOON)
        expect(count).to_be_visible()
        up.start()
        expect(shown.locator("#stale")).to_be_hidden(timeout=SOON)
        expect(invoker).to_contain_text("running", timeout=SOON)
        assert shown.locator("#workflows img, #changes img, #findings img").count() == 0


def test_a_phone_shows_all_of_it_once_it_has_the_token(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path) as up, page(browser, up.ports["controller"], viewport=PHONE) as shown:
        asked: list[str] = []
        shown.on("request", lambda request: asked.append(request.url))
        told(shown, "wrong")
        expect(shown.locator("#refused")).to_have_text("This is not the token.", timeout=SOON)
        told(shown)
        expect(shown.locator(".chain li").first).to_be_visible(timeout=SOON)
        assert shown.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert not any(TOKEN in each for each in asked)
        link = shown.locator("#parts a")
        assert link.get_attribute("href") == f"http://127.0.0.1:{up.ports['api']}/"
