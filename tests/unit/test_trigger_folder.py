"""Lines and files of a folder: each found once, through rotation, truncation, restarts and long lines."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tempos_trigger.sources.folder import LINGER, Files, Lines, Watched

MANY = 1000


def watched(path: Path, *, pattern: str = "*.log", limit: int = 10, from_start: bool = True) -> Watched:
    return Watched(path, pattern, limit, from_start)


def take(folder: Lines | Files, now: float = 0.0, room: int = MANY, *, settle: bool = True) -> list[bytes]:
    found, _ = folder.look(now, room)
    for each in found if settle else []:
        folder.settle(each.mark)
    return [each.body for each in found]


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def test_rotation_truncation_and_lines_that_are_too_long(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"old\n")
    folder = Lines(watched(tmp_path, from_start=False), None)
    assert take(folder) == []
    append(log, b"one\r\nhalf")
    assert take(folder) == [b"one"]
    # Rotated; its writer goes on for a while under the other name, which no pattern matches.
    log.rename(tmp_path / "a.old")
    log.write_bytes(b"new\n")
    append(tmp_path / "a.old", b" line\nlast\n")
    assert sorted(take(folder, 1.0)) == [b"half line", b"last", b"new"]
    append(tmp_path / "a.old", b"late\n")
    assert take(folder, 1.0 + LINGER) == [b"late"]
    assert take(folder, 2.0 + 2 * LINGER) == []
    append(tmp_path / "a.old", b"too late\n")
    assert take(folder, 2.0 + 2 * LINGER) == []
    # Cut and written anew, once to less than before, once to more.
    append(log, b"x" * 9 + b"\n")
    assert take(folder) == [b"x" * 9]
    log.write_bytes(b"cut\n")
    assert take(folder) == [b"cut"]
    log.write_bytes(b"another one\nok\nand more\n")
    found, dropped = folder.look(0.0, MANY)
    assert [each.body for each in found] == [b"ok", b"and more"]
    assert dropped == {"too_large": 1}
    append(log, b"y" * 200_000)
    assert take(folder) == []
    append(log, b"y" * 200_000 + b"\nend\n")
    found, dropped = folder.look(0.0, MANY)
    assert [each.body for each in found] == [b"end"]
    assert not dropped
    folder.close()


def test_another_pattern_does_not_bring_up_what_is_old(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"one\n")
    (tmp_path / "b.txt").write_bytes(b"old\n")
    folder = Lines(watched(tmp_path), None)
    assert take(folder) == [b"one"]
    memory = folder.memory()
    folder.close()
    append(tmp_path / "a.log", b"two\n")
    folder = Lines(watched(tmp_path, pattern="*", from_start=False), memory)
    assert take(folder) == [b"two"]
    (tmp_path / "c.txt").write_bytes(b"new\n")
    assert take(folder) == [b"new"]
    folder.close()


def test_files_rest_before_they_are_taken_and_go_when_they_are_published(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    where = watched(tmp_path, pattern="*", from_start=False)
    folder = Files(where, 1.0, True, None)
    assert take(folder, 0.0) == []
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / ".b").write_bytes(b"hidden")
    (tmp_path / "large").write_bytes(b"x" * 11)
    assert take(folder, 10.0) == []
    # It grows meanwhile, and begins to rest anew.
    append(tmp_path / "a", b"b")
    assert take(folder, 10.5) == []
    assert folder.look(11.4, MANY) == ([], {"too_large": 1})
    found, dropped = folder.look(11.5, MANY)
    assert ([each.body for each in found], dropped) == ([b"ab"], {})
    # Not settled: neither gone nor remembered, and not found twice.
    assert take(folder, 20.0) == []
    memory = folder.memory()
    assert sorted(row[0] for row in memory["files"]) == ["large", "old"]
    folder.settle(found[0].mark)
    assert sorted(each.name for each in tmp_path.iterdir()) == [".b", "large", "old"]
    # After a restart what is known is not new, what came meanwhile is.
    (tmp_path / "c").write_bytes(b"c")
    folder = Files(where, 0.0, False, json.loads(json.dumps(folder.memory())))
    assert take(folder) == [b"c"]
    (tmp_path / "old").write_bytes(b"changed")
    assert take(folder) == [b"changed"]
    assert take(folder) == []


class Tailed(RuleBasedStateMachine):
    """Writers append, rotate and cut; readers look, settle, crash. Nothing is lost that was not cut."""

    @initialize()
    def begin(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="tailed-"))
        self.log = self.base / "x.log"
        self.written = 0
        self.kept: set[int] = set()
        self.unsettled: list[Any] = []
        self.settled: list[int] = []
        self.rotations = 0
        self.folder = Lines(watched(self.base, limit=100), None)
        self.memory: Any = None

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.look(MANY)
            self.settle(MANY)
            self.look(MANY)
            self.settle(MANY)
            assert set(self.settled) >= self.kept
            self.folder.close()
            shutil.rmtree(self.base)

    @rule(count=st.integers(1, 5), newline=st.booleans())
    def write(self, count: int, newline: bool) -> None:
        lines = [b"%d\n" % (self.written + each) for each in range(count)]
        content = b"".join(lines)
        with self.log.open("ab") as file:
            file.write(content if newline else content[:3])
            file.flush()
            file.write(b"" if newline else content[3:])
        self.kept |= {self.written + each for each in range(count)}
        self.written += count

    @rule()
    @precondition(lambda self: self.log.exists())
    def rotate(self) -> None:
        # What was rotated stays in sight, so no crash loses it.
        self.rotations += 1
        self.log.rename(self.base / f"{self.rotations}.log")

    @rule(room=st.sampled_from([1, 2, MANY]))
    def look(self, room: int) -> None:
        found, dropped = self.folder.look(0.0, room)
        assert len(found) <= room
        assert not dropped
        self.unsettled += found

    @rule(count=st.integers(1, 4))
    def settle(self, count: int) -> None:
        for each in self.unsettled[:count]:
            self.folder.settle(each.mark)
            self.settled.append(int(each.body))
        del self.unsettled[:count]

    @rule()
    def remember(self) -> None:
        self.memory = json.loads(json.dumps(self.folder.memory()))

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        if clean:
            self.look(MANY)
            self.settle(MANY)
            self.remember()
        self.folder.close()
        self.unsettled.clear()
        self.folder = Lines(watched(self.base, limit=100), self.memory)
        if clean:
            # Nothing comes twice that was remembered.
            self.look(MANY)
            assert not self.unsettled


TestTailed = Tailed.TestCase
