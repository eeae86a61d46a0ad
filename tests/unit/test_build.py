"""Building and setting up: what an editable install spares, what `make setup` notices.

In a copy of the tree, really built where the machine has the tools.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.archives import how_many

pytest.importorskip("hatchling", reason="hatchling is not installed")
pytest.importorskip("cffi", reason="cffi is not installed")

ROOT = Path(__file__).resolve().parents[2]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
LIMIT = 250
#: A machine that has none of the tools.
BARE = {"PATH": "/nonexistent", "CC": "no-compiler", "LDSHARED": "no-linker"}
STALE = b"made from other sources"
OURS = Path("broker", "tempos_broker", f"_batch{SUFFIX}")
ANOTHERS = Path("broker", "tempos_broker", "_batch.cpython-399-x86_64-linux-gnu.so")
BPF = Path("fastpath", "tempos_fastpath", "fastpath.bpf.o")

#: What hatchling does for an editable install.
HOOK = """
from types import SimpleNamespace
from hatch_build import NativeBuildHook
app = SimpleNamespace(display_warning=print)
NativeBuildHook(".", {}, None, None, "dist", "wheel", app).initialize("editable", {"force_include": {}})
"""

needs_tools = pytest.mark.skipif(
    not (shutil.which("gcc") and (shutil.which("clang-14") or shutil.which("clang")))
    or not Path(sysconfig.get_path("include"), "Python.h").exists()
    or not Path("/usr/include/bpf/libbpf.h").exists(),
    reason="needs gcc, clang, Python's and libbpf's headers",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The project, nothing of it built."""
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "*.so", "*.bpf.o", "__pycache__", ".*_cache", ".hypothesis", "tests"
    )
    return Path(shutil.copytree(ROOT, tmp_path / "tree", ignore=ignored))


def python(tree: Path, code: str, **environment: str) -> str:
    """Run Python in the tree; what it printed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TEMPOS_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env={**clean, **environment},
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def wheel(tree: Path, **environment: str) -> dict[str, bytes]:
    """Build a wheel; the compiled parts in it."""
    name = python(
        tree, "from hatchling.build import build_wheel; print(build_wheel('dist'))", **environment
    ).split()[-1]
    assert ("none-any" in name) == bool(environment)
    with zipfile.ZipFile(tree / "dist" / name) as built:
        assert "tempos_bench/scenarios/redirect.toml" in built.namelist()
        return {each: built.read(each) for each in built.namelist() if each.endswith((".so", ".bpf.o"))}


@needs_tools
def test_an_editable_install_builds_for_its_own_python_and_leaves_nothing_that_is_out_of_date(
    tree: Path,
) -> None:
    (tree / ANOTHERS).write_bytes(STALE)
    step = (
        "import native_parts as n; part = n.parts()[0]; print(n.is_current(part))\n"
        "try: n.build_in_tree(part)\nexcept n.CannotBuild as error: print(error)\nprint(n.is_current(part))"
    )
    assert python(tree, step).split() == ["False", "True"]
    made = (tree / OURS).read_bytes()
    # Without a compiler what is there stays for as long as it is right.
    assert python(tree, step, **BARE).splitlines()[::2] == ["True", "True"]
    assert (tree / OURS).read_bytes() == made
    with (tree / "broker" / "native" / "batch_send.h").open("a") as source:
        source.write("\n/* newer */\n")
    assert "of other sources, is removed" in python(tree, step, **BARE)
    assert not (tree / OURS).exists()
    assert (tree / ANOTHERS).read_bytes() == STALE


def test_a_whole_editable_install_removes_only_its_own_stale_parts(tree: Path) -> None:
    for each in (OURS, ANOTHERS, BPF):
        (tree / each).write_bytes(STALE)
    told = python(tree, HOOK, **BARE)
    assert "tempos_broker._batch is left out" in told
    assert "tempos_fastpath/fastpath.bpf.o is left out: clang is not installed" in told
    assert [(tree / each).exists() for each in (OURS, ANOTHERS, BPF)] == [False, True, False]
    done = subprocess.run(
        [sys.executable, "-c", HOOK], cwd=tree, env={**os.environ, **BARE, "TEMPOS_REQUIRE_NATIVE": "1"},
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode
    assert "cannot build tempos_broker._batch" in done.stderr


# What a set-up notices


class SetUp:
    """An environment in the tree that looks as if `make setup` had made it, but without packages."""

    def __init__(self, tree: Path, tools: Path) -> None:
        self.tree = tree
        self.venv = tree / ".venv"
        # Nothing that a machine lacks is installed by a test.
        tools.mkdir()
        (tools / "apt-get").write_text("#!/bin/sh\n")
        (tools / "apt-get").chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
        for name in ("VENV", "PYTHON", "CHOSEN", "MAKEFLAGS", "MAKELEVEL"):
            self.environment.pop(name, None)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.venv], check=True, timeout=LIMIT)
        (self.venv / "bin" / "pip").write_text(f"#!{self.venv.resolve()}/bin/python\n")
        self.stamp = self.venv / ".ready"
        self.stamp.write_text(python(tree, "import native_parts as n; print(n.stamp())"))

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.tree, env={**self.environment, **environment},
            capture_output=True, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip

    def why(self, **environment: str) -> str:
        """What `setup.sh check` says."""
        done = self.run("sh", "setup.sh", "check", **environment)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout


@pytest.fixture
def made(tree: Path, tmp_path: Path) -> SetUp:
    return SetUp(tree, tmp_path / "tools")


def moved(made: SetUp) -> None:
    content = (made.venv / "bin" / "pip").read_text()
    (made.venv / "bin" / "pip").write_text(content.replace(str(made.tree), "/elsewhere"))


def without_pip(made: SetUp) -> None:
    (made.venv / "bin" / "pip").unlink()


def exchanged(made: SetUp) -> None:
    config = made.venv / "pyvenv.cfg"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("version")]
    config.write_text("\n".join([*lines, "version = 3.9.2", ""]))


def gone(made: SetUp) -> None:
    for name in ("python", "python3", f"python3.{sys.version_info[1]}"):
        (made.venv / "bin" / name).unlink()
    (made.venv / "bin" / "python").symlink_to("/nonexistent/python")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (moved, "made elsewhere, or never finished"),
        (without_pip, "made elsewhere, or never finished"),
        (exchanged, "was made for Python 3 9 and has"),
        (gone, "its Python does not run"),
    ],
)
def test_an_environment_that_is_of_no_use_is_noticed(
    made: SetUp, harm: Callable[[SetUp], None], told: str
) -> None:
    assert "is of no use" not in made.why()
    harm(made)
    assert told in made.why()
    assert made.run("make", "-q", "setup").returncode == 1
    # Without a stamp there is nothing that could be wrong with it.
    made.stamp.unlink()
    assert made.why() == ""


def test_another_python_is_noticed_where_it_was_asked_for(made: SetUp, tmp_path: Path) -> None:
    other = tmp_path / "python3.99"
    other.write_text("#!/bin/sh\necho CPython 3 99\n")
    other.chmod(0o755)
    told = f"and {other} is CPython 3 99"
    assert told in made.why(CHOSEN=str(other))
    assert told not in made.why(CHOSEN=sys.executable)
    assert told in made.run("make", "-n", "setup", f"PYTHON={other}").stdout
    assert told in made.run("make", "-n", "setup", PYTHON=str(other)).stdout
    assert "is of no use" not in made.run("make", "-n", "setup").stdout


def test_a_set_up_that_fails_or_is_interrupted_is_begun_again(made: SetUp) -> None:
    """The environment has no pip: it ends in the middle, and what was whole before is not taken for whole."""
    failed = made.run("sh", "setup.sh")
    assert failed.returncode
    assert "No module named pip" in failed.stderr
    assert not made.stamp.exists()
    assert made.run("make", "-q", "setup").returncode == 1


def test_parts_and_packages_that_are_missing_are_noticed(tree: Path) -> None:
    """By the interpreter of this environment, in which everything is installed, but from another tree."""

    def lacking(stamp: dict[str, object]) -> str:
        return python(tree, f"import native_parts as n; print(*n.lacking({json.dumps(stamp)!r}), sep='\\n')")

    whole = json.loads(python(tree, "import native_parts as n; print(n.stamp())"))
    assert len(whole["left_out"]) == how_many(tree), "nothing is built in this tree"
    assert lacking(whole).splitlines() == [f"the tempos that is installed is that of {ROOT.as_uri()}"]
    assert "tempos_broker._batch is not there" in lacking({**whole, "left_out": []})
    (tree / OURS).write_bytes(STALE)
    assert "tempos_broker._batch is out of date" in lacking({**whole, "left_out": []})
    if whole["tools"]:
        name = next(iter(whole["tools"]))
        assert f"{name} is there now" in lacking({**whole, "tools": {}})
    assert lacking({}) == "it was done by another version\n"
    absent = "import native_parts as n; n._EXTRAS += ('absent',); n._PROGRAMS += ('absent',)\n"
    assert "absent is not there" in python(tree, absent + "print(n.lacking(n.stamp()))")


def test_what_is_left_out_is_written_down_and_installed_with_the_reason(tree: Path) -> None:
    wheel(tree, **BARE)
    (name,) = (tree / "dist").glob("*.whl")
    with zipfile.ZipFile(name) as built:
        account = json.loads(built.read("tempos/_parts.json"))
    whys = {part["name"]: part["why"] for part in account}
    assert whys["tempos_fastpath/fastpath.bpf.o"] == "clang is not installed"
    assert all(whys.values())
    assert {part["extra"] for part in account} == {"broker", "fastpath", "bench", "invoker"}
    python(tree, HOOK, **BARE)
    told = python(tree, "import native_parts as n; n._left_out()").splitlines()
    assert "tempos_fastpath/fastpath.bpf.o is left out: clang is not installed" in told
    assert len(told) == len(account)
    noise = "In file included from x.c:1:\nlibbpf.h:3:10: fatal error: bpf/bpf.h: No such file\n ended\n"
    step = (
        "import json, native_parts as n; "
        f"print(json.loads(n.account({{n.parts()[0].name: {noise!r}}}))[0]['why'])"
    )
    assert python(tree, step) == "libbpf.h:3:10: fatal error: bpf/bpf.h: No such file\n"
