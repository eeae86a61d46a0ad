"""Commands that run beside tests."""

from __future__ import annotations

import signal

import pytest
from support.beside import beside


def test_a_test_that_fails_leaves_no_command_behind() -> None:
    with pytest.raises(ZeroDivisionError), beside(["sleep", "1000"]) as command:
        raise ZeroDivisionError
    assert command.returncode == -signal.SIGKILL
