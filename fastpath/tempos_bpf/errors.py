"""What the kernel, libbpf or the installation refuses, as errors that say what to do.

All are :class:`tempos.Unavailable`: whoever can do without BPF does, and shows the text.
"""

from __future__ import annotations

import errno
import os

from tempos import Unavailable


class NotBuilt(Unavailable, ImportError):
    """An extension, a BPF object or a package is missing from this installation."""


class BpfError(Unavailable):
    """The kernel or libbpf refused an operation. ``errno`` is positive; ``log`` the verifier's, if any."""

    def __init__(self, what: str, code: int, detail: str = "", log: str = "") -> None:
        text = f"{what}: {os.strerror(code)}"
        if code in (errno.EPERM, errno.EACCES) and not log:
            text += "; this needs root, or CAP_BPF and CAP_NET_ADMIN"
        for part in (detail.strip(), log.strip()):
            if part:
                text += f"\n{part}"
        super().__init__(text)
        self.errno = code
        self.log = log


class InterfaceBusy(BpfError):
    """The interface already carries an XDP program that is not ours; it is never touched."""

    def __init__(self, interface: str, name: str, program_id: int) -> None:
        super().__init__(
            f"{interface} already carries the XDP program {name!r} (id {program_id}), which is not ours "
            "and stays; detach it there or leave the interface out",
            errno.EBUSY,
        )
        self.interface = interface
        self.program = name
        self.program_id = program_id
