"""Whether an interface takes redirected frames, found out by redirecting one (fastpath/bpf/trial.bpf.c).

For kernels that do not say (before Linux 6.3), and for interfaces that refused what they should have taken.
The frame is one that nobody wants: from the interface to itself, of the EtherType for experiments. A switch
or bridge drops it, and a host leaves it alone. An interface that takes no frames sends none. Blocking; some
20 ms.
"""

from __future__ import annotations

import errno
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tempos import Unavailable, _abi
from tempos.errors import one_line
from tempos_bpf.links import attach_tracing
from tempos_bpf.objects import BpfObject
from tempos_fastpath.network.facts import Interface
from tempos_fastpath.survival.ownership import current_namespace

OBJECT = Path(__file__).parent.with_name("trial.bpf.o")
PROGRAM = "tempos_try"
_WITNESSES = ("tempos_not_taken", "tempos_taken")
#: IEEE 802's EtherType for local experiments.
_ETHERTYPE = b"\x88\xb5"
_FRAME_LEN = 60
#: A ring may be full at the moment.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """``takes``: None where it could not be tried. ``why`` it takes none, or could not be tried."""

    takes: bool | None
    why: str = ""


def try_redirect(interface: Interface) -> Verdict:
    """Redirect a frame to an Ethernet interface of the calling thread's namespace that is up."""
    assert interface.mac is not None, "it is an Ethernet interface"
    mac = bytes.fromhex(interface.mac.replace(":", ""))
    frame = (mac + mac + _ETHERTYPE).ljust(_FRAME_LEN, b"\0")
    rodata = {
        "our_namespace": current_namespace().to_bytes(8, sys.byteorder),
        "tried": interface.index.to_bytes(4, sys.byteorder),
    }
    try:
        with BpfObject(OBJECT, rodata) as loaded, ExitStack() as witnesses:
            loaded.map("target").update(0, interface.index.to_bytes(4, sys.byteorder))
            for name in _WITNESSES:
                witnesses.enter_context(attach_tracing(loaded.program(name)))
            for _ in range(_TRIES):
                loaded.program(PROGRAM).run_live(frame, repeat=1, ingress_ifindex=0, batch=1)
                taken, refused, code = (
                    int.from_bytes(loaded.map("outcome").lookup(key) or b"", sys.byteorder)
                    for key in (_abi.TRIAL_TAKEN, _abi.TRIAL_REFUSED, _abi.TRIAL_ERROR)
                )
                if taken or code:
                    break
    except Unavailable as error:
        return Verdict(None, one_line(error))
    if taken:
        return Verdict(True)
    if refused:
        return Verdict(False, errno.errorcode.get(code, str(code)) if code else "its ring is full")
    return Verdict(None, "the kernel did not show what became of a frame")
