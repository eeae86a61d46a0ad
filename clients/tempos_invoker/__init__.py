"""Invokers: events become invocations of functions (the source's section Processing).

What a function in Python may use is here: :class:`Refused` to raise, :class:`Context` as its second argument.

Rule: it imports ``tempos`` and ``tempos_daemon``, and nothing of another daemon; what a worker's process
imports is light.
"""

from __future__ import annotations

from tempos_invoker.context import Context, Refused

__all__ = ["Context", "Refused"]
