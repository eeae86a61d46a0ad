"""What holds for all tests."""

from __future__ import annotations

import ast
import asyncio
import functools
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# What a shell runs in the background ignores Ctrl-C, and so would every program that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Whoever ends the tests from outside (timeout, a cancelled CI) ends them as Ctrl-C does: what they have
# made in the kernel, and what they have started, goes as after any failure.
signal.signal(signal.SIGTERM, signal.default_int_handler)

# What tests start hundreds of times is compiled once, also where somebody wants no bytecode: a start of a
# broker takes 0.5 s of the processor then, and 1.3 s otherwise.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


if sys.version_info[:2] == (3, 11):
    # Parsing ends with a SystemError where the collector runs meanwhile and what it takes away logs a
    # traceback, which is parsed as well (3.11.2 and 3.11.7; not 3.10, 3.12).
    _parse = ast.parse

    @functools.wraps(_parse)
    def _parse_alone(*arguments: Any, **options: Any) -> ast.AST:
        was = gc.isenabled()
        gc.disable()
        try:
            return _parse(*arguments, **options)
        finally:
            if was:
                gc.enable()

    ast.parse = _parse_alone


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: left out of the short form of a kernel's run")


#: Files that take a minute and more, whose tests share nothing: they go wherever a place is free.
_APART = frozenset({
    "test_scenarios.py", "test_next_life.py", "test_fleet_failures.py", "test_fanout.py", "test_sources.py",
    "test_networks.py",
})  # fmt: skip
#: Files that take so long and share what they stand on: they begin early.
_LONG = _APART | {
    "test_fleet.py", "test_manual.py", "test_packages.py",
    "test_trigger_opcua_security.py",
}  # fmt: skip
#: Folders of tests, those first whose files take longest: at the end short ones fill every place.
_LONGEST_FIRST = ("net", "networks", "parity", "kernel", "sim", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> tuple[int, bool]:
        folder = item.path.parent.name
        rank = _LONGEST_FIRST.index(folder) if folder in _LONGEST_FIRST else 0
        return rank, item.path.name not in _LONG

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile` the tests of a file go one after the other, but those of :data:`_APART`."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return nodeid if Path(file).name in _APART else file

    return ByFile(config, log)


def pytest_pycollect_makemodule(module_path: Path) -> None:
    """Properties are set up before a module that has some is imported; others do without hypothesis."""
    if b"hypothesis" in module_path.read_bytes():
        _properties()
    if module_path.parent.name in ("kernel", "net", "networks", "parity"):
        _forks()


@cache
def _forks() -> None:
    """Commands that are run, and brokers in nodes, begin as forks of what has read their code."""
    from support import forking

    from tempos_bench.nodes import node

    node.start_process, subprocess.run = forking.start, forking.run


@cache
def _properties() -> None:
    from hypothesis import settings

    # A machine that is busy with something else is no fault of the code: properties are not timed.
    settings.register_profile("tempos", deadline=None)
    settings.load_profile("tempos")


def pytest_sessionfinish() -> None:
    """What brokers that were killed have left to their next lives goes; each worker names its own."""
    if (brokers := sys.modules.get("support.brokers")) is not None:
        brokers.forget()
    if (forking := sys.modules.get("support.forking")) is not None:
        forking.end()


#: Tests that run what a daemon is made of inside of themselves, for which it is uvloop that counts.
_ON_UVLOOP = ("test_trigger_", "test_invoker")


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that a test runs on: the daemons' own, where there is a difference to be found."""
    if item.path.parent.name == "net" and item.path.name.startswith(_ON_UVLOOP):
        try:
            import uvloop
        except ImportError:
            pass
        else:
            return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
