"""The order of the house: who imports whom, what lies where, and that the documents speak the truth.

Looks only at files. What git ignores (builds, environments) is not part of the house.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Where each package lives, and which of the others it may import.
PACKAGES = {
    "tempos": ("clients", set[str]()),
    "tempos_daemon": ("clients", {"tempos"}),
    "tempos_trigger": ("clients", {"tempos", "tempos_daemon"}),
    "tempos_invoker": ("clients", {"tempos", "tempos_daemon"}),
    "tempos_broker": ("broker", {"tempos", "tempos_daemon"}),
    "tempos_controller": ("broker", {"tempos", "tempos_daemon"}),
    "tempos_bpf": ("fastpath", {"tempos"}),
    "tempos_fastpath": ("fastpath", {"tempos", "tempos_bpf"}),
    "tempos_observe": ("fastpath", {"tempos", "tempos_bpf"}),
    "tempos_bench": ("bench", {"tempos"}),
}
#: The modules that may know more: the composition root, and the program that measures the invoker's engines.
EXCEPTIONS = {
    "broker/tempos_broker/__main__.py": {"tempos_fastpath"},
    "bench/tempos_bench/functions/engine.py": {"tempos_invoker"},
    "bench/tempos_bench/nodes/process.py": {"tempos_bpf"},
}
#: Outside these, `tempos` needs nothing but the standard library.
CLIENT_NEEDS = {"msgpack"}
#: What one command of the client needs beyond that, imported when it is run, and an extra brings.
ASKED_FOR = {
    "clients/tempos/cli/completion.py": {"argcomplete"},
    "clients/tempos/encryption.py": {"cryptography"},
    "clients/tempos/exporting/jetstream.py": {"nats"},
}
#: Of what every daemon needs, the part that a daemon without HTTP never imports, and what it imports itself.
HTTP_MODULES = {
    "door", "http_client", "http_connections", "http_fast", "http_server", "metrics", "models", "operations",
    "page", "problems", "web",
}  # fmt: skip
HTTP_NEEDS = {"fastapi", "h11", "httpx", "prometheus_client", "pydantic", "starlette", "uvicorn"}

FOLDERS = ("broker", "fastpath", "clients", "bench", "config")
DOCUMENTS = (
    "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "KERNELS.md", "OBSERVE.md", "WIRE.md",
)  # fmt: skip
#: The manual's own pages; the others are made from documents and code.
MANUAL = tuple(str(page.relative_to(ROOT)) for page in sorted((ROOT / "config/docs/pages").rglob("*.md")))
RESULTS = {"bench-results", "kernel-results"}
WALK_SKIPS = {".git", ".venv", "build", "dist", "__pycache__", ".hypothesis", *RESULTS}

LONG, TOO_LONG = 450, 600
#: Modules in one folder that a newcomer can still take in.
MANY = 30
SPDX_BPF = "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"


@cache
def files() -> tuple[Path, ...]:
    """Every file of the project, relative to its root: what git has or would take, else what is there."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, check=True,
        ).stdout.decode()  # fmt: skip
        names = [Path(name) for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = list(_walk())
    return tuple(sorted({name for name in names if (ROOT / name).is_file()}))


def _walk() -> Iterator[Path]:
    for folder, below, names in os.walk(ROOT):
        below[:] = [
            name for name in below if name not in WALK_SKIPS and not name.endswith(("_cache", ".egg-info"))
        ]
        for name in names:
            if not name.endswith((".so", ".o", ".pyc")):
                yield (Path(folder) / name).relative_to(ROOT)


def read(path: Path) -> str:
    return (ROOT / path).read_bytes().decode(errors="replace")


def modules() -> list[Path]:
    """The Python files inside the packages, stubs included."""
    homes = {(folder, package) for package, (folder, _) in PACKAGES.items()}
    return [path for path in files() if path.suffix in (".py", ".pyi") and path.parts[:2] in homes]


@cache
def parsed(path: Path) -> tuple[str | None, tuple[ast.Import | ast.ImportFrom | ast.Call, ...]]:
    """What a file says that it is for, and whatever imports something, anywhere in it."""
    tree = ast.parse(read(path), str(path))
    return ast.get_docstring(tree), tuple(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Call) and _imports(node.func))
    )


def _imports(called: ast.expr) -> bool:
    if isinstance(called, ast.Attribute) and called.attr == "import_module":
        return ast.unparse(called) == "importlib.import_module"
    return isinstance(called, ast.Name) and called.id in ("__import__", "import_module")


def imports(path: Path) -> set[str]:
    """Top-level names of what a file imports, anywhere in it; what is under TYPE_CHECKING counts, too."""
    found = set()
    for node in parsed(path)[1]:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(path.parts[1] if node.level else (node.module or "").partition(".")[0])
        elif node.args and isinstance(node.args[0], ast.Constant):
            found.add(str(node.args[0].value).partition(".")[0])
    return found


# Who imports whom


def test_packages_import_only_what_the_design_allows() -> None:
    assert {path.parts[1] for path in modules()} == PACKAGES.keys()
    wrong = {}
    for path in modules():
        package = path.parts[1]
        allowed = {package} | PACKAGES[package][1] | EXCEPTIONS.get(path.as_posix(), set())
        if beyond := imports(path) & (PACKAGES.keys() - allowed):
            wrong[path.as_posix()] = beyond
    assert not wrong


def dotted(path: Path) -> str:
    """The name of a module, or of the package whose ``__init__`` this is."""
    return ".".join(path.with_suffix("").parts[1:]).removesuffix(".__init__")


def inner_imports(path: Path, known: set[str]) -> set[str]:
    """The modules of its own package that a file imports, anywhere in it."""
    here = dotted(path).split(".")
    around = here if path.name == "__init__.py" else here[:-1]
    found = set()
    for node in parsed(path)[1]:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = around[: len(around) - node.level + 1] if node.level else []
            base = [*base, node.module] if node.module else base
            for alias in node.names:
                whole = ".".join([*base, alias.name])
                found.add(whole if whole in known else ".".join(base))
    return {name for name in found & known if name.partition(".")[0] == here[0]} - {dotted(path)}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Nodes that lead back to the first of them, or none."""
    done: set[str] = set()

    def follow(node: str, way: list[str]) -> list[str]:
        if node in way:
            return way[way.index(node) :]
        for after in sorted(graph[node] - done):
            if found := follow(after, [*way, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := follow(node, []))), [])


def test_no_modules_of_a_package_import_each_other() -> None:
    known = {dotted(path) for path in modules() if path.suffix == ".py"}
    graph = {dotted(path): inner_imports(path, known) for path in modules() if path.suffix == ".py"}
    assert circle(graph) == []
    # What a split can bring: here is what would be found.
    udp = "tempos_broker.slowpath.udp"
    assert "tempos_broker.slowpath.adapter" in graph[udp]
    graph["tempos_broker.slowpath.adapter"].add(udp)
    assert set(circle(graph)) == {"tempos_broker.slowpath.adapter", udp}


def test_what_every_daemon_needs_is_light_unless_it_serves_http() -> None:
    beyond = {
        path.stem: imports(path) - sys.stdlib_module_names - {"tempos", "tempos_daemon"}
        for path in modules()
        if path.parts[1] == "tempos_daemon" and path.suffix == ".py"
    }
    # Taken where it is installed, and done without elsewhere.
    assert beyond.pop("loop") == {"uvloop"}
    assert set().union(*beyond.values()) <= HTTP_NEEDS
    assert {name for name, needs in beyond.items() if needs} == HTTP_MODULES


def test_the_client_needs_nothing_but_msgpack() -> None:
    wrong = {}
    for path in modules():
        if path.parts[1] == "tempos":
            beyond = imports(path) - sys.stdlib_module_names - CLIENT_NEEDS - {"tempos"}
            beyond -= ASKED_FOR.get(path.as_posix(), set())
            if beyond:
                wrong[path.as_posix()] = beyond
    assert not wrong


def test_no_cancellation_is_forgotten() -> None:
    """As `asyncio.wait_for` does before Python 3.12: see `tempos._awaitables.in_time`."""
    ours = [path for path in modules() if path.parts[0] in ("clients", "broker", "fastpath")]
    assert not [path for path in ours if "await asyncio.wait_for(" in path.read_text()]


def test_product_code_imports_no_tests() -> None:
    assert not [path for path in modules() if imports(path) & {"tests", "support", "pytest", "hypothesis"}]


# What lies where


def test_no_loose_python_in_a_top_level_folder() -> None:
    assert not [
        path for path in files() if path.suffix == ".py" and len(path.parts) == 2 and path.parts[0] in FOLDERS
    ]


def test_nothing_else_lies_beside_the_folders() -> None:
    """Such as what a tool has left, and somebody has committed."""
    assert {path.parts[0] for path in files() if len(path.parts) > 1} == {
        *FOLDERS,
        "tests",
        "findings",
        ".ci",
    }


def test_each_component_has_one_uniquely_named_package() -> None:
    found = {
        (path.parts[0], path.parts[1])
        for path in files()
        # What lies in config/ are examples: functions of a platform, none of ours.
        if path.suffix == ".py" and path.parts[0] in set(FOLDERS) - {"config"}
    }
    assert found == {(folder, package) for package, (folder, _) in PACKAGES.items()}
    for folder, package in found:
        assert (ROOT / folder / package / "py.typed").is_file()
        assert f'"{folder}/{package}"' in read(Path("pyproject.toml"))


def test_every_package_folder_is_a_package() -> None:
    folders = {path.parent for path in modules()}
    assert not [folder.as_posix() for folder in folders if folder / "__init__.py" not in files()]


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        path.as_posix()
        for path in files()
        if path.suffix == ".py" and read(path).strip() and not parsed(path)[0]
    ]
    assert not silent


def test_no_file_grows_out_of_hand(capsys: pytest.CaptureFixture[str]) -> None:
    lengths = {
        path.as_posix(): read(path).count("\n")
        for path in files()
        if path.suffix in (".py", ".c", ".h") and "Generated from" not in read(path)[:400]
    }
    for name, lines in sorted(lengths.items(), key=lambda item: -item[1]):
        if LONG < lines <= TOO_LONG:
            with capsys.disabled():
                print(f"\n{name}: {lines} lines; think of splitting it", end="")
    assert not {name: lines for name, lines in lengths.items() if lines > TOO_LONG}


def test_no_folder_grows_out_of_hand() -> None:
    held = Counter(path.parent.as_posix() for path in modules() if path.suffix == ".py")
    assert not {folder: count for folder, count in held.items() if count > MANY}


def test_the_harness_is_found_in_its_folders() -> None:
    bare = {path.name for path in modules() if path.parent.as_posix() == "bench/tempos_bench"}
    assert bare == {"__init__.py", "__main__.py", "command.py"}


def test_bpf_sources_carry_both_licences() -> None:
    sources = [path for path in files() if "bpf" in path.parts[:-1] and path.suffix in (".c", ".h")]
    assert sources
    assert not [path.as_posix() for path in sources if SPDX_BPF not in read(path).partition("\n")[0]]


def test_no_file_names_a_package_registry() -> None:
    # Put together here, so that this file is not found by its own search.
    names = (
        "pypi org", "pypi python org", "pythonhosted org", "registry npmjs", "registry yarnpkg",
        "deb debian org", "ftp debian org", "security debian org", "archive ubuntu com",
        "conda anaconda org", "static crates io", "proxy golang org",
    )  # fmt: skip
    hosts = [name.replace(" ", ".") for name in names]
    options = ["--" + option for option in ("index-url", "extra-index-url", "trusted-host")]
    named = {}
    for path in files():
        content = read(path).lower()
        if hits := [needle for needle in hosts + options if needle in content]:
            named[path.as_posix()] = hits
    assert not named


# The documents


@pytest.mark.parametrize("name", [*DOCUMENTS, *MANUAL, "LICENSE"])
def test_documents_exist(name: str) -> None:
    assert (ROOT / name).is_file()
    assert len(read(Path(name)).strip()) > 100


def code_in(name: str) -> str:
    """What a document sets as code: fenced blocks and spans."""
    text = read(Path(name)) if (ROOT / name).is_file() else ""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.M | re.S)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return "\n".join([*blocks, *spans])


#: What people are told to do elsewhere than in the documents.
ADVICE = ("config/prometheus/alerts.yml", "fastpath/tempos_observe/tools")


def advised() -> Iterator[tuple[str, str]]:
    """Commands with an action that advice names."""
    for path in files():
        if path.as_posix().startswith(ADVICE):
            yield from re.findall(
                r"\btempos (observe|ctl|workflow|function|errors|fastpath) ([a-z-]+)", read(path)
            )
    for name in (*DOCUMENTS, *MANUAL):
        yield from re.findall(r"\btempos (observe) ([a-z-]+)", code_in(name))


#: By a program of its own, which imports every command: how each of these ends when asked for its help.
_HELP = """
import contextlib, io, json, sys
from tempos.cli import main

def ends(words):
    sys.argv = ["tempos", *words, "--help"]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return main()
    except SystemExit as end:
        return end.code

print(json.dumps({" ".join(words): ends(words) for words in json.load(sys.stdin)}))
"""


def test_commands_in_the_documents_exist() -> None:
    named: set[tuple[str, ...]] = set(advised())
    for name in (*DOCUMENTS, *MANUAL):
        for command, action in re.findall(r"(?m)(?:^|\$ |/)tempos ([a-z]+)(?: ([a-z]+)\b)?", code_in(name)):
            named.add((command,))
            if command in ("config", "bench"):
                named.add((command, action) if action else (command,))
    done = subprocess.run(
        [sys.executable, "-c", _HELP], input=json.dumps(sorted(named)), capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    assert len(named) > 50
    assert json.loads(done.stdout) == {" ".join(words): 0 for words in named}, done.stderr


def test_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read(Path("Makefile")), re.M))
    named = {
        target
        for name in (*DOCUMENTS, *MANUAL)
        for target in re.findall(r"(?m)(?:^|\s)make ([a-z][a-z-]*)", code_in(name))
    }
    assert named <= targets


def test_paths_in_the_documents_exist() -> None:
    tops = "|".join((*FOLDERS, "tests"))
    wrong = {
        (name, path)
        for name in (*DOCUMENTS, *MANUAL)
        for path in re.findall(rf"(?<![\w/.<-])((?:{tops})/[\w./*-]+)", code_in(name))
        if not any(ROOT.glob(path.rstrip("./"))) and not re.search(r"\.(so|bpf\.o)$", path)
    }
    assert not wrong
