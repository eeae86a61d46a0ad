"""How long is waited for what must come: longer where a machine is known to be slow.

The limits of this package hold for any machine that is not emulated. TEMPOS_PATIENCE in the environment says
how many times as long all of them are. A limit costs nothing where what is waited for comes.
"""

from __future__ import annotations

import os

_NAME = "TEMPOS_PATIENCE"
_TIMES = float(os.environ.get(_NAME) or 1)


def patience(seconds: float) -> float:
    """``seconds`` of an ordinary machine on this one."""
    return seconds * _TIMES
