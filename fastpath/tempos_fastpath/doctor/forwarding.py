"""Events through the whole fast path, as a broker sets it up: in each mode, to one group and to two."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Iterator
from contextlib import closing

from tempos import DATA_PORT, Framing, Group, Member, Path, Route, Topic, Unavailable
from tempos._awaitables import in_time
from tempos.doctor import Tried
from tempos.errors import one_line
from tempos_fastpath.doctor.sandbox import BROKER, Ends, member
from tempos_fastpath.network.kernel import Kernel
from tempos_fastpath.offload import Offload
from tempos_fastpath.starting import start

#: By mode, the check of each number of groups.
_CHECKS = {"native": {1: "TD121", 2: "TD122"}, "generic": {1: "TD123", 2: "TD124"}}
CODES = tuple(code for checks in _CHECKS.values() for code in checks.values())
_EVENTS = 64
#: Seconds for events to arrive, which the kernel has forwarded once they are sent; and for all of a mode.
_ARRIVAL, _LIMIT = 1.0, 60.0
_TOPIC = Topic(1, "doctor", framing=Framing.RAW)


def gather(refused: Collection[str]) -> Iterator[Tried]:
    """Each mode by itself, with nothing of another; not those whose program was ``refused``."""
    for mode, checks in _CHECKS.items():
        if mode in refused:
            yield from (Tried(code, False, "its program is refused, as above") for code in checks.values())
        else:
            yield from asyncio.run(_in_mode(mode, checks))


async def _in_mode(mode: str, checks: dict[int, str]) -> list[Tried]:
    try:
        return await in_time(_forward(mode, checks), _LIMIT)
    except (Unavailable, asyncio.TimeoutError) as error:
        return [Tried(code, False, one_line(error)) for code in checks.values()]


async def _forward(mode: str, checks: dict[int, str]) -> list[Tried]:
    fast = await start(
        listen=[BROKER], port=DATA_PORT, mode=mode, interfaces=(), name=f"doctor-{os.getpid()}", pin=False,
        # Inside of a VRF sockets are bound by a number, which is another interface's in this namespace.
        kernel=Kernel(bound=lambda: 0),
    )  # fmt: skip
    try:
        await fast.configure([_TOPIC])
        return [
            await _to_groups(fast, epoch, groups, code)
            for epoch, (groups, code) in enumerate(checks.items(), 1)
        ]
    finally:
        await fast.close()


async def _to_groups(fast: Offload, epoch: int, groups: int, code: str) -> Tried:
    there = Member(*member())
    route = Route(_TOPIC, epoch, tuple(Group(f"g{number}", (there,)) for number in range(groups)))
    with closing(Ends()) as ends:
        choice = await fast.install(route)
        if choice.path is not Path.FAST:
            return Tried(code, False, choice.reason)
        for number in range(_EVENTS):
            ends.send(bytes([_TOPIC.id, number]))
        wanted = _EVENTS * groups
        arrived = await asyncio.get_running_loop().run_in_executor(None, ends.count, wanted, _ARRIVAL)
    cause = f"{arrived} of {wanted} events arrived ({choice.reason})"
    if lost := fast.drops():
        cause += f"; lost behind the redirect: {lost}"
    return Tried(code, arrived == wanted, cause)
