"""Archives of our own, unpacked by every Python: before 3.11.4 its tar files have no filters."""

from __future__ import annotations

import tarfile
from pathlib import Path


def unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """All of it into ``folder``, and nothing beside it, where Python knows how to see to that."""
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, filter="data")
    else:
        archive.extractall(folder)
