"""What is one thing's alone, as ids, ports and keys are: claimed in the store before the thing is told of.

    claim ──► hear of all that was told before ──► does another thing have it? ──► told, and claimed no more

So of two brokers that are asked at once never both give one id, port or key: the second cannot claim it, or
hears of the first one's thing before its own is told. Rules: of what is claimed together all is had, or
nothing; the thing is told, and its claims go, in one transaction, and only if they stand by then. So nobody
waits for a claim to end but where its broker did: what came to nothing is given back at once, and where the
store is away, as soon as it is back.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

from tempos_broker.fleet.fleet import Fleet
from tempos_broker.fleet.registry import Away, Registry, Write
from tempos_broker.fleet.view import Made
from tempos_broker.topics.orders import Conflict

#: Seconds after which a claim ends whose broker did, and until all that was told before has to be heard.
LASTS, HEARD_BY = 10.0, 3.0


class Taken(Conflict):
    """Another thing has what this one was to have; ``keys``: what claims that."""

    def __init__(self, keys: Collection[str], text: str) -> None:
        super().__init__(text, "take another, or ask again")
        self.keys = frozenset(keys)


class Claims:
    """Of one broker, for things of one kind; ``word``: what one is called."""

    def __init__(self, word: str, made: Made, fleet: Fleet, store: Registry) -> None:
        self._word = word
        self._made = made
        self._fleet = fleet
        self._store = store
        #: Leases of what is to be given back.
        self._owed: set[int] = set()

    @contextlib.asynccontextmanager
    async def held(self, name: str, wanted: Mapping[str, str]) -> AsyncIterator[Sequence[Write]]:
        """Have all of these for the thing of this name, or none: raises :class:`Taken`, and as a store does.

        ``wanted``: what each is in words, by what claims it. Inside, the thing is told of, together with what
        is given here; where that raises all is given back.
        """
        if not wanted:
            yield ()
            return
        lease = await self._store.grant(LASTS)
        try:
            # Of this attempt alone: whatever another one left is not this one's.
            value = f"{lease} {name}".encode()
            written = await self._store.write([Write(key, value, 0) for key in wanted], lease)
            taken = [each.key for each in written.refused]
            if not taken:
                if not await self._fleet.hear(written.revision, HEARD_BY):
                    raise Away("what was told before is not heard")
                taken = self._made.others_have(name, wanted.keys())
            if taken:
                # Ids come first, and may have been nobody's wish.
                words = f"{wanted[taken[-1]]} was given to another {self._word}"
                raise Taken(taken, f"{words} at another broker of the fleet just now")
            yield [Write(key, None, at) for key, at in written.at.items()]
        except BaseException:
            self._owed.add(lease)
            with contextlib.suppress(Away):
                await self.settle()
            raise

    async def settle(self) -> None:
        """Give back what could not be before; raises :class:`Away`."""
        for lease in list(self._owed):
            await self._store.revoke(lease)
            self._owed.discard(lease)
