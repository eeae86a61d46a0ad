"""What runners that were killed have left: pins in the kernel, for all else of them ends with them.

Who ends in order removes these itself (:meth:`.node.Node.close`), and who is killed has its brokers do so.
Where all were killed at once, whoever comes next does.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

#: Where brokers pin, each in a folder of its name; those of runners' have the runner's process in it.
PINS = Path("/sys/fs/bpf/tempos")
_NAMES = re.compile(r"(?:bench|lives|life|soak|roaming)-(\d+)(?:-\d+)?")
#: Seconds.
_LIMIT = 60.0


@functools.cache
def sweep() -> None:
    """Remove these, once in the life of this process. Those of a broker that lives are refused, and stay."""
    for name in left():
        command = (sys.executable, "-m", "tempos", "fastpath", "clean", name)
        subprocess.run(command, capture_output=True, timeout=_LIMIT, check=False)


def left(pins: Path = PINS) -> list[str]:
    """The names under which runners that are no more have pinned something."""
    try:
        names = sorted(each.name for each in pins.iterdir())
    except OSError:
        # There is no such file system, or it is not ours to look into.
        return []
    found = ((name, _NAMES.fullmatch(name)) for name in names)
    return [name for name, match in found if match and not Path("/proc", match[1]).exists()]
