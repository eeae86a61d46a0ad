"""The file system that pins are in."""

from __future__ import annotations

from pathlib import Path

from tempos_bpf.library import check, lib


def is_bpffs(path: Path) -> bool:
    """Whether a BPF file system is there."""
    return bool(lib.tempos_bpffs_is(bytes(path)) == 1)


def mount_bpffs(path: Path) -> None:
    """Mount one, for root alone; raises :class:`~tempos_bpf.errors.BpfError`."""
    check(lib.tempos_bpffs_mount(bytes(path)), f"no BPF file system at {path}, and none to be mounted")
