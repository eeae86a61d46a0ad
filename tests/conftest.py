"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A machine that is busy with something else is no fault of the code: properties are not timed.
settings.register_profile("tempos", deadline=None)
settings.load_profile("tempos")
