"""What the kernel, libbpf or the installation refuses, as errors that say what to do.

All are :class:`tempos.Unavailable`: whoever can do without BPF does, and shows the text.
"""

from __future__ import annotations

import errno
import os

from tempos import Unavailable
from tempos_bpf import verifier


class NotBuilt(Unavailable, ImportError):
    """An extension, a BPF object or a package is missing from this installation."""


class BpfError(Unavailable):
    """The kernel or libbpf refused an operation; one sentence. ``errno`` is positive.

    ``words``: all that libbpf said of it, in lines. ``reason``: better words than those and the number's.
    """

    def __init__(self, what: str, code: int, words: str = "", *, reason: str = "") -> None:
        super().__init__(f"{what}: {reason or _reason(code, words)}")
        self.errno = code
        self.words = words.strip()


def _reason(code: int, words: str) -> str:
    text = os.strerror(code)
    if code in (errno.EPERM, errno.EACCES):
        return f"{text}; this needs root, or CAP_BPF and CAP_NET_ADMIN"
    cause = verifier.first_warning(words)
    return f"{text} ({cause})" if cause else text


class ProgramRefused(BpfError):
    """The kernel's verifier does not take a program; the sentence has why, by the end of its log.

    ``log``: the whole, up to megabytes. ``cause`` is None where the log does not say.
    """

    def __init__(self, program: str, file: str, code: int, words: str, log: str) -> None:
        cause = verifier.first_cause(log)
        what = f"the kernel's verifier refused the program {program} of {file}"
        reason = str(cause) if cause else f"{os.strerror(code)}, and its log does not say why"
        super().__init__(what, code, words, reason=reason)
        self.program = program
        self.cause = cause
        self.log = log


#: The words by which iproute2 takes off a program. Those of another mode, or "xdp off" where the driver knows
#: XDP, leave it and succeed (iproute2 6.1 on Linux 6.18: findings/xdp-off-leaves-generic.sh).
_OFF = {"native": "xdpdrv off", "generic": "xdpgeneric off", "offloaded": "xdpoffload off"}


class InterfaceBusy(BpfError):
    """The interface already carries an XDP program that is not ours; it is never touched.

    ``mode`` is the one of that program, as :func:`~tempos_bpf.links.query_xdp` names it.
    """

    def __init__(self, interface: str, name: str, program_id: int, mode: str) -> None:
        super().__init__(
            f"{interface} already carries the XDP program {name!r} (id {program_id}) in {mode} mode, which "
            f"is not ours and stays; end what put it there, or ip link set dev {interface} {_OFF[mode]}, or "
            "leave the interface out",
            errno.EBUSY,
        )
        self.interface = interface
        self.program = name
        self.program_id = program_id
