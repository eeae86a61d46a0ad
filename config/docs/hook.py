"""For mkdocs: adds the pages that are made from the code and from the documents beside it."""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))
from manual import commands, configuration, library, running, wire

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[2]
#: Documents of the repository, and where the site has them.
DOCUMENTS = {
    "ARCHITECTURE.md": "explanation/architecture.md",
    "CHANGELOG.md": "reference/changes.md",
    "KERNELS.md": "reference/kernels.md",
    "OBSERVE.md": "howto/observe.md",
    "WIRE.md": "reference/wire.md",
}
#: What a page has in place of a line `<!-- extras -->`, say.
PARTS = {"extras": running.extras_table}


def made() -> dict[str, str]:
    """The pages that no file of the site's own holds, by where they stand in it."""
    pages = {f"reference/{name}.md": configuration.page(name) for name in configuration.FILES}
    pages |= {
        "reference/commands.md": commands.page(),
        "reference/http.md": running.http_page(),
        "reference/metrics.md": running.metrics_page(),
        "reference/reasons.md": running.reasons_page(),
        "reference/codes.md": running.codes_page(),
        "reference/library.md": library.page(),
    }
    for name, place in DOCUMENTS.items():
        pages[place] = _linked((ROOT / name).read_text(), place)
    pages["reference/wire.md"] += wire.section()
    return pages


def _linked(text: str, place: str) -> str:
    """Links to other documents lead to where the site has those."""

    def led(found: re.Match[str]) -> str:
        return f"]({posixpath.relpath(DOCUMENTS[found[1]], posixpath.dirname(place))}"

    return re.sub(rf"\]\(({'|'.join(map(re.escape, DOCUMENTS))})", led, text)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs once it knows the site's own files."""
    from mkdocs.structure.files import File

    for place, text in made().items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs for each page."""
    return re.sub(
        r"<!-- (\w+) -->", lambda found: PARTS[found[1]]() if found[1] in PARTS else found[0], markdown
    )
