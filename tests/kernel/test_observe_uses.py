"""What tools say of files, programs and sockets equals what processes did: of one process by its id, beside
another that does the same, and of 50 by their name in a network namespace of their own.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.acts_files import place
from support.observing import Line, Observed, acting
from support.processes import descendants

from tempos_bench.nodes.namespace import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

_COUNT = 3
_COMM, _OTHER = "acts-watched", "acts-beside"


class Seen(NamedTuple):
    """``done``: what each process did, ``told``: the lines of each tool."""

    done: list[dict[str, Any]]
    told: dict[str, list[Line]]

    def events(self, tool: str) -> list[Line]:
        return [line for line in self.told[tool] if line["type"] == "event"]

    def counts(self, tool: str) -> Counter[tuple[Any, ...]]:
        """Name and keys -> count, of all looks."""
        found: Counter[tuple[Any, ...]] = Counter()
        for line in self.told[tool]:
            if line["type"] == "count":
                key = tuple(value for name, value in line.items() if name not in ("type", "count"))
                found[key] += line["count"]
        return found

    def rows(self, act: str) -> list[tuple[int, list[Any]]]:
        """Process id and row, of all processes."""
        return [(each["pid"], row) for each in self.done for row in each[act]["rows"]]


def watch(tools: Iterable[str], acts: list[str], space: Namespace | None, base: Path) -> Seen:
    """What tools say while processes do these acts; one by its id, or 50 by their name."""
    processes = 50 if space else 1
    for comm in (_COMM, _OTHER):
        shutil.copy("/bin/true", base / comm)
        for index in range(processes):
            mine = place(base / f"of-{comm}", index)
            mine.mkdir(parents=True)
            (mine / "there").touch()

    def options(comm: str) -> dict[str, Any]:
        folder, program = str(base / f"of-{comm}"), str(base / comm)
        return {
            "acts": acts,
            "count": _COUNT,
            "comm": comm,
            "name": f"read-{comm}",
            "folder": folder,
            "program": program,
        }

    with ExitStack() as stack:
        main = stack.enter_context(acting("several", processes=processes, space=space, **options(_COMM)))
        beside = stack.enter_context(acting("several", processes=1, space=space, **options(_OTHER)))
        (process,) = descendants(main.pid) if space is None else (0,)
        chosen = {
            # What is executed has another id than who did it.
            name: ("--comm", _COMM) if space or name == "execsnoop" else ("--pid", str(process))
            for name in tools
        }
        with ThreadPoolExecutor() as pool:
            begun = list(
                pool.map(lambda each: stack.enter_context(Observed(each[0], *each[1])), chosen.items())
            )
            done = main.go()
            beside.go()
            return Seen(done, dict(zip(chosen, pool.map(Observed.stop, begun), strict=True)))


def test_files_and_programs(space: Namespace | None, tmp_path: Path) -> None:
    seen = watch(
        ("opensnoop", "scread", "filelife", "execsnoop"),
        ["opens", "reads", "lives", "execs"],
        space,
        tmp_path,
    )
    opened = Counter(
        (line["pid"], line["fd"], line["err"], line["path"]) for line in seen.events("opensnoop")
    )
    wanted = Counter((pid, *row) for pid, row in seen.rows("opens"))
    assert {key: count for key, count in opened.items() if key in wanted} == wanted

    reads: Counter[tuple[str | None, ...]] = Counter()
    for each in seen.done:
        for key, count in each["reads"]["counts"].items():
            call, _, name = key.partition(" ")
            reads[call, None if name == "None" else name] += count
    assert {key: count for key, count in seen.counts("scread").items() if key in reads} == reads

    lived = Counter((line["pid"], line["file"]) for line in seen.events("filelife"))
    assert lived == Counter((pid, row[0]) for pid, row in seen.rows("lives"))
    ages = {(pid, name): (least, most) for pid, (name, least, most) in seen.rows("lives")}
    for line in seen.events("filelife"):
        least, most = ages[line["pid"], line["file"]]
        assert int(least) <= line["age_ms"] <= most, line

    started = Counter((line["pid"], line["args"]) for line in seen.events("execsnoop"))
    assert started == Counter(tuple(row) for _, row in seen.rows("execs"))


def _added(done: list[dict[str, Any]], of: str) -> Counter[tuple[str, ...]]:
    total: Counter[tuple[str, ...]] = Counter()
    for each in done:
        for key, count in each["sockets"][of].items():
            total[tuple(key.split())] += count
    return total


_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
_PROTOCOLS = {"TCP": (6, "IPPROTO_TCP"), "UDP": (17, "IPPROTO_UDP"), "UNIX": (0, None)}


def test_sockets(space: Namespace | None, tmp_path: Path) -> None:
    seen = watch(("sockstat", "sofamily", "soprotocol", "socketio"), ["sockets"], space, tmp_path)

    doors = {tuple(key): count for key, count in _added(seen.done, "doors").items()}
    told = {
        (probe.removeprefix("sys_exit_"),): count for (_, probe), count in seen.counts("sockstat").items()
    }
    assert told == doors

    families: Counter[tuple[Any, ...]] = Counter()
    protocols: Counter[tuple[Any, ...]] = Counter()
    for (way, family, kernel), count in _added(seen.done, "joined").items():
        families[way, _COMM, _FAMILIES[family], family] += count
        number, name = _PROTOCOLS[kernel.partition("-")[0].removesuffix("v6")]
        protocols[way, _COMM, number, name, kernel] += count
    assert seen.counts("sofamily") == families
    assert seen.counts("soprotocol") == protocols

    moved: Counter[tuple[Any, ...]] = Counter()
    for each in seen.done:
        for name in ("io", "bytes", "failed"):
            for key, count in each["sockets"][name].items():
                way, protocol = key.split()
                moved[name, _COMM, each["pid"], way, protocol] += count
    assert seen.counts("socketio") == moved
