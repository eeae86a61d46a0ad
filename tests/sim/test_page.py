"""The live page in a real browser follows: joins, paths, dead members, losses, a broker that restarts."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.brokers import post, serving
from support.pages import SOON, Browser, Page, expect, launched, page
from support.ports import free_ports

from tempos.wire import encode_event

HOSTILE = "<img src=x onerror=document.body.remove()>"
TOKEN = "open-sesame-" * 2
PHONE = {"width": 390, "height": 844}

_MEMBER = """
import asyncio, sys
from tempos import Subscriber
async def main():
    host, control, group = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    async with Subscriber(host, "press", group=group, control_port=control) as member:
        print("in", flush=True)
        async for _ in member:
            pass
asyncio.run(main())
"""


class World:
    """A broker's files and ports."""

    def __init__(self, folder: Path, token: str = "") -> None:
        self.folder = folder
        self.sequence = 0
        self.data, self.control, self.api = free_ports(3)
        self.file = folder / "broker.toml"
        self.file.write_text(
            f'[broker]\nname = "page"\nlisten = ["127.0.0.1"]\ndata_port = {self.data}\n'
            f'control_port = {self.control}\napi = "127.0.0.1:{self.api}"\n'
            + (f'api_token = "{token}"\n' if token else "")
            + f'[state]\nfile = "{folder / "state"}"\n[fastpath]\nmode = "off"\n[control]\nlease = 1.5\n'
            "heartbeat = 0.4\n"
            '[[topic]]\nid = 7\nname = "press"\nclass = "SQ"\nframing = "event"\n'
            '[[topic]]\nid = 8\nname = "idle"\nclass = "BQ"\nframing = "event"\n'
        )

    def serve(self) -> contextmanager[subprocess.Popen[str]]:  # type: ignore[valid-type]
        return serving(self.file, self.folder / "log")

    def publish(self, count: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for number in range(1, count + 1):
                self.sequence += 1
                event = encode_event(7, body=bytes(8), publisher=5, sequence=self.sequence, sent_ns=number)
                sock.sendto(event, ("127.0.0.1", self.data))

    @contextmanager
    def member(self, group: str) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-c", _MEMBER, "127.0.0.1", str(self.control), group]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "in\n"
                yield process
            finally:
                process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as started:
        yield started


def change(shown: Page, text: str) -> None:
    expect(shown.locator("#changes li", has_text=text).first).to_be_visible(timeout=SOON)


def test_the_page_follows(browser: Browser, tmp_path: Path) -> None:
    world = World(tmp_path)
    with page_of_two_lives(browser, world) as (shown, kill):
        expect(shown.locator("#headline")).to_have_text("Nothing is wrong", timeout=SOON)
        press = shown.locator(".topic", has=shown.get_by_text("press", exact=True))
        with world.member(HOSTILE) as member:
            change(shown, f"joined group '{HOSTILE}' of press")
            # By keyboard.
            press.locator("button").focus()
            shown.keyboard.press("Enter")
            expect(press.locator(".group h3")).to_contain_text(f"{HOSTILE}: 1 member", timeout=SOON)
            expect(press.locator("tbody tr")).to_have_count(1, timeout=SOON)
            world.publish(50)
            expect(press.locator("tbody tr")).to_contain_text("50", timeout=SOON)
            expect(press).to_contain_text("50 delivered", timeout=SOON)

            post(world.api, "/v1/topics/press/path", {"policy": "slow"})
            expect(press.locator(".why")).to_have_text("a command says path = slow", timeout=SOON)
            change(shown, "topic press (7): slow path: a command says path = slow")

            member.kill()
            world.publish(200)
            change(shown, "it was not heard of for as long as its lease is")
        expect(shown.locator("#headline")).to_contain_text("losses: press", timeout=SOON)
        expect(shown.locator("#detail")).to_contain_text("200 lost", timeout=SOON)
        expect(shown.locator("#remedy")).to_contain_text("tempos ledger press")
        change(shown, "TD407 losses (press former groups)")
        # The same facts in a terminal.
        asked = [sys.executable, "-m", "tempos", "top", "--once", "--api", f"127.0.0.1:{world.api}"]
        screen = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
        assert screen.startswith("TD407 losses")
        assert re.search(r"200 lost and 0 dropped, of 250 \(since 20", screen)
        asked[3:5] = ["doctor"]
        told = subprocess.run(asked, check=False, capture_output=True, text=True)
        assert told.returncode == 1
        assert re.search(r"TD407 .*press .*200 lost and 0 dropped, of 250 \(since 20", told.stdout, re.DOTALL)
        asked[3:4] = ["top", "--once"]
        assert "a command says path = slow" in screen
        told = json.loads(subprocess.run([*asked, "--json"], check=True, capture_output=True).stdout)
        assert [(each["name"], each["lost"]) for each in told["topics"]] == [("idle", 0), ("press", 200)]
        change(shown, "TD407 losses")

        kill()
        expect(shown.locator("#stale")).to_contain_text("Not live", timeout=SOON)
        expect(press).to_be_visible()
        with world.serve():
            expect(shown.locator("#stale")).to_be_hidden(timeout=SOON)
            change(shown, "broker 'page' started, 2 topics, 0 members; its account goes on")
            assert shown.locator("#topics img, #changes img").count() == 0


@contextmanager
def page_of_two_lives(browser: Browser, world: World) -> Iterator[tuple[Page, object]]:
    broker = world.serve()
    broker.__enter__()
    ended = False

    def kill() -> None:
        nonlocal ended
        ended = True
        broker.__exit__(None, None, None)

    try:
        with page(browser, world.api) as shown:
            yield shown, kill
    finally:
        if not ended:
            kill()


def test_a_token_is_asked_for_once_and_never_in_an_address(browser: Browser, tmp_path: Path) -> None:
    world = World(tmp_path, token=TOKEN)
    with world.serve(), page(browser, world.api, viewport=PHONE, color_scheme="dark") as shown:
        asked: list[str] = []
        shown.on("request", lambda request: asked.append(request.url))
        field = shown.locator("#token")
        field.fill("wrong")
        field.press("Enter")
        expect(shown.locator("#refused")).to_have_text("This is not the token.", timeout=SOON)
        field.fill(TOKEN)
        field.press("Enter")
        expect(shown.locator("#headline")).to_have_text("Nothing is wrong", timeout=SOON)
        shown.reload()
        expect(shown.locator("#headline")).to_have_text("Nothing is wrong", timeout=SOON)
        assert not any(TOKEN in each for each in asked)
        # Nothing sticks out of a phone.
        assert shown.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_as_many_topics_and_members_as_there_may_be_are_shown_and_found(
    browser: Browser, tmp_path: Path
) -> None:
    world = World(tmp_path)
    many = "".join(
        f'[[topic]]\nid = {number}\nname = "hall/machine-{number:03}"\n'
        + "".join(
            f'[[topic.member]]\nip = "127.0.0.1"\nport = {20000 + member}\ngroup = "g"\n'
            for member in range(64)
        )
        for number in range(1, 255)
    )
    world.file.write_text(world.file.read_text().partition("[[topic]]")[0] + many)
    with world.serve(), page(browser, world.api, viewport=PHONE) as shown:
        topics = shown.locator(".topic")
        expect(topics).to_have_count(254, timeout=SOON)
        world.publish(64)
        expect(topics.filter(has_text="machine-007")).to_be_visible(timeout=SOON)
        shown.locator("#find").fill("machine-007")
        expect(topics).to_have_count(1, timeout=SOON)
        topics.locator("button").click()
        expect(topics.locator("tbody tr")).to_have_count(64, timeout=SOON)
        expect(topics.locator(".group h3")).to_contain_text("64 ticketed", timeout=SOON)
        shown.locator("#find").fill("")
        expect(topics).to_have_count(254, timeout=SOON)
        assert shown.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
