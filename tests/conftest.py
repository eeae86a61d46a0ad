"""What holds for all tests."""

from __future__ import annotations

import signal

from hypothesis import settings

# A machine that is busy with something else is no fault of the code: properties are not timed.
settings.register_profile("tempos", deadline=None)
settings.load_profile("tempos")

# What a shell runs in the background ignores Ctrl-C, and so would every program that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Whoever ends the tests from outside (timeout, a cancelled CI) ends them as Ctrl-C does: what they have
# made in the kernel, and what they have started, goes as after any failure.
signal.signal(signal.SIGTERM, signal.default_int_handler)
