"""What dead brokers leave that holds nothing is removed, and nothing else is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tempos import _places

orphans = pytest.importorskip("tempos_fastpath.survival.orphans", reason="the fast path is not built")


def test_empty_folders_of_brokers_long_gone_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, root = tmp_path / "run", tmp_path / "bpf"
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(_places, "SYSTEM", run)
    monkeypatch.setattr(orphans, "ROOT", root)
    monkeypatch.setattr(orphans, "owners", tuple)
    monkeypatch.setattr(orphans, "all_pins", tuple)
    for base in (run, root):
        for name in ("old", "young", "full"):
            (base / name).mkdir(parents=True)
        (base / "full" / "something").touch()
        for name in ("old", "full"):
            os.utime(base / name, (0, time.time() - 3600))
    orphans.tidy()
    for base in (run, root):
        assert sorted(each.name for each in base.iterdir()) == ["full", "young"]
        assert (base / "full" / "something").exists()
