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


def how_many(tree: Path) -> int:
    """The compiled parts of a tree: an extension for each file of declarations, an object a program."""
    extensions = [*tree.glob("*/native/*.cdef")]
    objects = [*tree.glob("*/bpf/*.bpf.c"), *tree.glob("*/bpf/observe/*.bpf.c")]
    assert len(extensions) > 5 < len(objects)
    return len(extensions) + len(objects)
