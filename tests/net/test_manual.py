"""The manual: it builds without a warning, fetches nothing, has all the code tells; its examples run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.transcripts import agrees, lacking, reader, steps

from tempos import REASON_TEXTS
from tempos.doctor import areas
from tempos_controller.watch.findings import CHECKS

ROOT = Path(__file__).resolve().parents[2]
MANUAL = ROOT / "config" / "docs"
PAGES = sorted((MANUAL / "pages").rglob("*.md"))
EXAMPLES = [page for page in (ROOT / "README.md", *PAGES) if steps(page.read_text())]
LIMIT = 200


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", str(MANUAL / "mkdocs.yml"),
         "-d", str(made)],
        capture_output=True, text=True, timeout=LIMIT, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return made


def test_it_builds_and_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES), "those that are made, too"
    for page in pages:
        text = page.read_text()
        # What a browser loads by itself; links are for people.
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?([^\s\">]+)", text)
        loaded += re.findall(
            r"<link\b[^>]*\brel=\"?(?:stylesheet|icon|preload|preconnect)[^>]*\bhref=\"?([^\s\">]+)", text
        )
        assert loaded
        assert not [each for each in loaded if re.match(r"(https?:)?//", each)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", sheet.read_text()), sheet


def test_what_it_has_of_the_code_is_all_there(site: Path) -> None:
    def has(page: str, *names: str) -> None:
        text = (site / "reference" / page).read_text()
        assert not [name for name in names if f"<code>{name}</code>" not in text and f">{name}<" not in text]

    has("reasons.html", *(reason.label for reason in REASON_TEXTS))
    has("codes.html", *(check.code for area in areas() for check in area.checks))
    has("codes.html", *(check.code for check in CHECKS))
    has("metrics.html", "tempos_ledger_drift", "tempos_trigger_drift", "tempos_function_accepted_total",
        "tempos_controller_ready")  # fmt: skip
    has("http.html", "GET /v1/status", "POST /v1/topics", "PUT /v1/deployment", "GET /v1/workflows")
    for daemon in ("broker", "trigger", "invoker", "platform"):
        example = (ROOT / "config" / f"{daemon}.toml").read_text()
        has(f"{daemon}.html", *re.findall(r"^#?([a-z_]+) = ", example, re.M))
    commands = (site / "reference" / "commands.html").read_text()
    assert "tempos ctl topic add" in commands
    assert "--max-datagram" in commands
    wire = (site / "reference" / "wire.html").read_text()
    assert "tempos_event_header" in wire
    assert "TEMPOS_WIDE_HEADER_LEN" in wire


def test_there_is_a_man_page_for_each_command_and_file(tmp_path: Path) -> None:
    write = "import sys; sys.path.insert(0, sys.argv[1]); from manual import man; man.main(sys.argv[2])"
    subprocess.run(
        [sys.executable, "-c", write, str(MANUAL), str(tmp_path / "man")], check=True, timeout=LIMIT
    )
    pages = {page.name: page for page in (tmp_path / "man").rglob("*.[15]")}
    told = subprocess.run(
        [sys.executable, "-m", "tempos", "--help"], capture_output=True, text=True, check=True, timeout=LIMIT
    ).stdout
    commands = re.findall(
        r"^    ([a-z]+)(?: |$)", told.partition("COMMAND\n")[2].partition("examples:")[0], re.M
    )
    assert {"broker", "pub", "doctor"} <= set(commands)
    assert {f"tempos-{name}.1" for name in commands} | {"tempos.1"} <= pages.keys()
    assert {f"tempos-{name}.toml.5" for name in ("broker", "trigger", "invoker", "platform")} <= pages.keys()
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    for page in pages.values():
        read = subprocess.run(
            ["man", "--warnings", "-l", str(page)], capture_output=True, text=True, check=True, timeout=LIMIT,
            env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "100"},
        )  # fmt: skip
        assert read.stderr == "", page
        assert "SYNOPSIS" in read.stdout or page.suffix == ".5"


def test_what_an_example_prints_is_held_against_the_page() -> None:
    (written, run, end) = steps(
        "<!-- file: a -->\n```toml\nx = 1\n```\n\n<!-- run -->\n```console\n$ cat a\nx = ...\n```\n"
        "<!-- end -->\n"
    )
    assert end.kind == "end"
    assert (written.kind, written.name, written.text) == ("file", "a", "x = 1\n")
    assert (run.text, run.wanted) == ("cat a", "x = ...\n")
    assert agrees(run.wanted, "x = 2\n")
    assert not agrees(run.wanted, "y = 2\n")
    assert not agrees("", "something\n")


def test_dots_are_anything_in_their_line_and_any_lines_where_they_are_alone() -> None:
    for wanted, got, right in (
        ("a ... c", "a b  c\n", True),
        ("a ... c", "a b\nb c\n", False),
        ("a  b\n", "a b", True),
        ("a...", "a\nb\n", False),
        ("a...\n...", "ab\n", True),
        ("a\n...\nc\n", "a\nb\nb\nc\n", True),
        ("a\n...\nc\n", "a\nb\n", False),
        ("as 127.0.0.1:...", "as 127.0.0.1:4711", True),
        ("1.5 us", "1x5 us", False),
    ):
        assert agrees(wanted, got) is right, (wanted, got)


@pytest.mark.netns
@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    found = steps(page.read_text())
    assert found
    if missing := lacking(page.read_text()):
        pytest.skip(f"not installed: {', '.join(missing)}")
    with reader(tmp_path) as at:
        try:
            for step in found:
                at.take(step)
        finally:
            at.end()
