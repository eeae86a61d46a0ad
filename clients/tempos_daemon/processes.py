"""Processes that a daemon starts of its own program."""

from __future__ import annotations

import os
import sys
from typing import Any


def alike() -> dict[str, Any]:
    """Arguments of :class:`subprocess.Popen`: the modules of here, and none from wherever the daemon is."""
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    return {"cwd": "/", "env": {**os.environ, "PYTHONPATH": path}}
