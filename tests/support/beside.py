"""A command that runs beside a test."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def beside(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """It ends by itself; where the test fails it is not waited for, nor left behind."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise
