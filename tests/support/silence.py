"""Members that end without a word, in a process that goes on."""

from __future__ import annotations

from tempos import Subscriber


async def silenced(subscriber: Subscriber) -> None:
    """As the end of its process: it tells nobody anything, and nothing comes."""
    roaming, reader, link = subscriber._roaming, subscriber._reader, subscriber._link
    assert roaming is not None
    assert reader is not None
    assert link is not None
    await link.close()
    await roaming.end()
    await reader.close()
    redelivery = subscriber._intake.redelivery
    redelivery._is_off = True
    if redelivery._timer is not None:
        redelivery._timer.cancel()
    subscriber._intake.repairs.end()
