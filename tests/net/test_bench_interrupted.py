"""Ctrl-C on a real run: it ends soon, keeps what is finished, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.privileges import require_kernel, require_netns
from support.processes import Spaces, descendants, still_alive
from support.waiting import LIMIT

pytestmark = [pytest.mark.netns, pytest.mark.kernel]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_its_rounds_and_cleans_up(tmp_path: Path, number: signal.Signals) -> None:
    require_kernel()
    require_netns()
    with Spaces() as spaces, subprocess.Popen(
        [sys.executable, "-m", "tempos_bench", "bench", "run", "program-time", "--json-dir", str(tmp_path),
         "--set", "rounds=100000", "--set", "frames=10000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        assert run.stderr is not None
        for line in run.stderr:
            if "round 3 of" in line:
                break
        family = descendants(run.pid)
        for pid in family:
            spaces.add(f"/proc/{pid}/ns/net")
        assert len(spaces) == 6
        run.send_signal(number)
        out, complaints = run.communicate(timeout=LIMIT)
        assert still_alive(family, LIMIT) == set()
        assert not spaces.inhabited(LIMIT)

    assert run.returncode == 130, complaints
    assert "NOT COMPLETE" in out
    assert "what was finished is kept" in complaints
    document = json.loads((tmp_path / "program-time.json").read_text())
    assert document["complete"] is False
    kept = [len(document["rounds"][name]) for name in ("empty program", "fast path")]
    assert min(kept) >= 2
    assert {len(row["rounds"]) for row in document["rows"] if row["rounds"]} == {min(kept)}
