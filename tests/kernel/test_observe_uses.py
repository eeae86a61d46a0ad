"""What tools say of files, programs and sockets equals what processes did: of one by its id and of all by
their name, of one and of 50, here and in a container, beside another process that does the same.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.acts_files import place
from support.observing import Filtered, Line, acting
from support.privileges import require_tracepoints

from tempos_bench.nodes.namespace import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

_COUNT = 3
_COMM, _OTHER = f"acts-{os.getpid()}", f"not-{os.getpid()}"


class Seen(NamedTuple):
    """``lines``: what a tool told; ``done``: what each process did that it was asked for."""

    lines: list[Line]
    done: list[dict[str, Any]]

    def events(self) -> list[Line]:
        return [line for line in self.lines if line["type"] == "event"]

    def counts(self) -> Counter[tuple[Any, ...]]:
        """Name and keys -> count, of all looks."""
        found: Counter[tuple[Any, ...]] = Counter()
        for line in self.lines:
            if line["type"] == "count":
                key = tuple(value for name, value in line.items() if name not in ("type", "count"))
                found[key] += line["count"]
        return found

    def rows(self, act: str) -> list[tuple[int, list[Any]]]:
        """Process id and row, of all processes."""
        return [(each["pid"], row) for each in self.done for row in each[act]["rows"]]


def watch(tool: str, act: str, processes: int, space: Namespace | None, base: Path) -> Iterator[Seen]:
    """What a tool says while processes do this: of one of them by its id, of all by their name."""
    for comm in (_COMM, _OTHER):
        shutil.copy("/bin/true", base / comm)
        for index in range(processes):
            mine = place(base / f"of-{comm}", index)
            mine.mkdir(parents=True)
            (mine / "there").touch()

    def options(comm: str) -> dict[str, Any]:
        folder, program = str(base / f"of-{comm}"), str(base / comm)
        more = {"name": f"read-{comm}", "folder": folder, "program": program}
        return {"acts": [act], "count": _COUNT, "comm": comm, **more}

    with ExitStack() as stack:
        main = stack.enter_context(acting("several", processes=processes, space=space, **options(_COMM)))
        beside = stack.enter_context(acting("several", processes=1, space=space, **options(_OTHER)))
        tools = stack.enter_context(Filtered(tool, main, comm=_COMM, everybody=False))
        done = main.go()
        beside.go()
        for lines, whom, _ in tools.stop(done):
            yield Seen(lines, [*whom.values()])


@pytest.fixture(params=[1, 50])
def processes(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_opensnoop(space: Namespace | None, processes: int, tmp_path: Path) -> None:
    for seen in watch("opensnoop", "opens", processes, space, tmp_path):
        opened = Counter((line["pid"], line["fd"], line["err"], line["path"]) for line in seen.events())
        wanted = Counter((pid, *row) for pid, row in seen.rows("opens"))
        assert {key: count for key, count in opened.items() if key in wanted} == wanted
        assert {line["pid"] for line in seen.events()} == {pid for pid, _ in seen.rows("opens")}


def test_scread(space: Namespace | None, processes: int, tmp_path: Path) -> None:
    for seen in watch("scread", "reads", processes, space, tmp_path):
        reads: Counter[tuple[str | None, ...]] = Counter()
        for each in seen.done:
            for key, count in each["reads"]["counts"].items():
                call, _, name = key.partition(" ")
                reads[call, None if name == "None" else name] += count
        assert {key: count for key, count in seen.counts().items() if key in reads} == reads


def test_filelife(space: Namespace | None, processes: int, tmp_path: Path) -> None:
    for seen in watch("filelife", "lives", processes, space, tmp_path):
        lived = Counter((line["pid"], line["file"]) for line in seen.events())
        assert lived == Counter((pid, row[0]) for pid, row in seen.rows("lives"))
        ages = {(pid, name): (least, most) for pid, (name, least, most) in seen.rows("lives")}
        for line in seen.events():
            least, most = ages[line["pid"], line["file"]]
            assert int(least) <= line["age_ms"] <= most, line


def test_execsnoop(space: Namespace | None, processes: int, tmp_path: Path) -> None:
    # What is executed has another id than who did it.
    *_, seen = watch("execsnoop", "execs", processes, space, tmp_path)
    started = Counter((line["pid"], line["args"]) for line in seen.events())
    assert started == Counter(tuple(row) for _, row in seen.rows("execs"))


def test_execsnoop_of_who_turns_into_another(space: Namespace | None, processes: int, tmp_path: Path) -> None:
    program = shutil.copy("/bin/true", tmp_path / _COMM)
    with (
        acting("several", acts=[], processes=processes, space=space, become=str(program)) as acts,
        Filtered("execsnoop", acts, comm=_COMM, everybody=False) as tools,
    ):
        for lines, whom, _ in tools.stop(acts.go()):
            told = {(line["pid"], line["args"]) for line in lines if line["type"] == "event"}
            assert told == {(each["pid"], f"{program} {index}") for index, each in whom.items()}


def _added(done: list[dict[str, Any]], of: str) -> Counter[tuple[str, ...]]:
    total: Counter[tuple[str, ...]] = Counter()
    for each in done:
        for key, count in each["sockets"][of].items():
            total[tuple(key.split())] += count
    return total


_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
_PROTOCOLS = {"TCP": (6, "IPPROTO_TCP"), "UDP": (17, "IPPROTO_UDP"), "UNIX": (0, None)}


def test_sockstat(space: Namespace | None, processes: int, tmp_path: Path) -> None:
    for seen in watch("sockstat", "sockets", processes, space, tmp_path):
        doors = {tuple(key): count for key, count in _added(seen.done, "doors").items()}
        told = {(probe.removeprefix("sys_exit_"),): count for (_, probe), count in seen.counts().items()}
        assert told == doors


def test_sofamily(space: Namespace | None, processes: int, tmp_path: Path) -> None:
    for seen in watch("sofamily", "sockets", processes, space, tmp_path):
        families: Counter[tuple[Any, ...]] = Counter()
        for (way, family, _), count in _added(seen.done, "joined").items():
            families[way, _COMM, _FAMILIES[family], family] += count
        assert seen.counts() == families


def test_soprotocol(space: Namespace | None, processes: int, tmp_path: Path) -> None:
    for seen in watch("soprotocol", "sockets", processes, space, tmp_path):
        protocols: Counter[tuple[Any, ...]] = Counter()
        for (way, _, kernel), count in _added(seen.done, "joined").items():
            number, name = _PROTOCOLS[kernel.partition("-")[0].removesuffix("v6")]
            protocols[way, _COMM, number, name, kernel] += count
        assert seen.counts() == protocols


def test_socketio(space: Namespace | None, processes: int, tmp_path: Path) -> None:
    require_tracepoints("sock_recv_length")
    for seen in watch("socketio", "sockets", processes, space, tmp_path):
        moved: Counter[tuple[Any, ...]] = Counter()
        for each in seen.done:
            for name in ("io", "bytes", "failed"):
                for key, count in each["sockets"][name].items():
                    way, protocol = key.split()
                    moved[name, _COMM, each["pid"], way, protocol] += count
        assert seen.counts() == moved
