"""Where the header for functions in C lies: ``cc -I "$(tempos function header)" ...``."""

from __future__ import annotations

from pathlib import Path

#: The folder that has ``tempos_function.h``.
FOLDER = Path(__file__).parent / "include"
