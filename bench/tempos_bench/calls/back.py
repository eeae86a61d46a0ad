"""The function as a step of a workflow: it is called, and its event goes on as it came.

So what a measurement wrote into a signal is still in the result, after any number of steps.
"""

from __future__ import annotations

from tempos_bench.calls.count import count


def back(body: bytes) -> bytes:
    """Call the function, and give the event."""
    count(body)
    return body
