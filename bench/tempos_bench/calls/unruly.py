"""A function that does what its event says: gives it back, or fails in each way that functions can.

A file of its own that imports nothing of this package: it is uploaded as code.
"""

from __future__ import annotations

import json
import os
import signal
import time


def work(body: bytes) -> bytes:
    """``do`` of the event: raise, hang, exit, crash, large; anything else: the event comes back."""
    do = json.loads(body)["do"]
    if do == "raise":
        raise ValueError("as the event says")
    if do == "hang":
        time.sleep(3600)
    if do == "exit":
        os._exit(9)
    if do == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if do == "large":
        return bytes(200_000)
    return body
