"""Signals that are sent to all processes of an invoker are its business, not its workers'.

A service manager or an operator may send them so. A worker does nothing at them, or what runs in it would be
cut off. Nor does it ignore them: what a function starts would ignore them, too, and could not be ended by
them. What it forks off, as `multiprocessing` does, ends by them from its first moment on.
"""

from __future__ import annotations

import os
import signal
import threading

SENT_TO_ALL = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)

_before = threading.local()


def leave_to_the_invoker() -> None:
    """Do nothing at them from now on; on the main thread."""
    for number in SENT_TO_ALL:
        signal.signal(number, _nothing)
        # What waits in the kernel goes on waiting.
        signal.siginterrupt(number, False)
    os.register_at_fork(before=_hold, after_in_parent=_go_on, after_in_child=_begin)


def _nothing(*_: object) -> None:
    """Of a signal."""


def _hold() -> None:
    # One for the child must not come before it has its ways.
    _before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SENT_TO_ALL)


def _go_on() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _before.mask)


def _begin() -> None:
    for number in SENT_TO_ALL:
        # A function may have ways of its own.
        if signal.getsignal(number) is _nothing:
            signal.signal(number, signal.SIG_DFL)
    _go_on()
