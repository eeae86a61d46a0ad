"""What ends a daemon that does not stop: with a fake end here, and for good in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
from support.waiting import LIMIT

from tempos_daemon.last_resort import BEHIND, LastResort


def test_it_ends_the_process_with_its_code_and_says_where_it_hung(caplog: pytest.LogCaptureFixture) -> None:
    ended, codes, watched = threading.Event(), list[int](), list[float]()

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    last = LastResort(7, end=end, watchdog=watched.append)
    last.step = "closing the state file"
    began = time.monotonic()
    last.arm(1000)
    last.arm(0.05)
    last.arm(500)
    assert ended.wait(LIMIT)
    assert 0.05 <= time.monotonic() - began < LIMIT
    assert (codes, watched) == ([7], [1000 + BEHIND, 0.05 + BEHIND])
    assert "still closing the state file" in caplog.text


HANGS = {
    "loop": "import time; time.sleep(60)",
    "executor": "from concurrent.futures import ThreadPoolExecutor as T; import time\n"
                "t = T(1); t.submit(time.sleep, 60); t.shutdown()",
    "with the interpreter's lock": "import ctypes; ctypes.PyDLL(None).sleep(60)",
}  # fmt: skip


@pytest.mark.parametrize("how", HANGS)
def test_nothing_that_hangs_outlives_it(how: str) -> None:
    program = (
        "import logging; logging.basicConfig()\nfrom tempos_daemon.last_resort import LastResort\n"
        f"LastResort(7).arm(0.2)\nprint('armed', flush=True)\n{HANGS[how]}"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "armed\n"
        _, err = process.communicate(timeout=LIMIT)
    if how == "with the interpreter's lock":
        assert process.returncode == 1
        assert "Timeout" in err
    else:
        assert process.returncode == 7
        assert "not stopped in time: still stopping" in err
