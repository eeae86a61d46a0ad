"""The demo of a fleet, as a person runs it: with an etcd, and where there is none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import LIMIT

COMMAND = (sys.executable, "-m", "tempos_bench", "demo", "fleet")


def test_a_broker_is_killed_and_all_the_others_get_comes() -> None:
    if shutil.which("etcd") is None:
        pytest.skip("etcd is not installed (apt-get install etcd-server)")
    done = subprocess.run(
        (*COMMAND, "--json"), capture_output=True, text=True, timeout=3 * LIMIT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = json.loads(done.stdout)
    assert shown["sound"]
    assert shown["doubled"] == 0
    assert shown["confirmed"] == [3, 3]
    assert shown["sent"] == shown["received"] + shown["lost"]
    assert len(shown["by_member"]) == 3
    assert "is killed" in done.stderr


def test_where_there_is_no_etcd_it_says_what_it_needs(tmp_path: Path) -> None:
    done = subprocess.run(
        COMMAND, capture_output=True, text=True, timeout=LIMIT, check=False, env={"PATH": str(tmp_path)}
    )
    assert done.returncode == 2
    assert "apt-get install etcd-server" in done.stderr
