"""What the control port has to do with the fleet: who says that it hears other brokers, and what it is told.

No I/O. A client asks first of which brokers the fleet is; only once it hears all of them it becomes a member,
and says so (``hears``); then events may come to it from each.
"""

from __future__ import annotations

import time

from tempos.auth import addressee_of
from tempos.control import Code, Request, encode_ok
from tempos_broker.account.accounts import Holder
from tempos_broker.control.decisions import Decision, Done, Way, holder_of
from tempos_broker.fleet.fleet import Fleet
from tempos_broker.membership import Refused, Registry

#: Bytes of an answer besides its brokers.
_HEAD = 40


class Desk:
    """``fleet``: None where there is none."""

    def __init__(self, registry: Registry, fleet: Fleet | None = None) -> None:
        self._registry = registry
        self.fleet = fleet

    @property
    def addressee(self) -> int:
        """What signed requests have to name; 0: nobody."""
        return 0 if self.fleet is None else addressee_of(self.fleet.name, self.fleet.me.name)

    def request(self, request: Request, way: Way, now: float) -> Decision:
        """Of which brokers the fleet is; behind the number ``after``, where one answer does not hold all."""
        way.caller.require_any("subscribe")
        if self.fleet is None:
            raise Refused(Code.UNKNOWN_OPERATION, "this broker is in no fleet", "")
        fleet, after = self.fleet, request.fields["after"] or 0
        rows: list[tuple[int, str, int, int]] = []
        fields = {
            "name": fleet.name,
            "me": fleet.me.number,
            "changes": fleet.view.changes,
            "ready": fleet.ready,
            "leaving": fleet.drains.is_leaving,
            "more": False,
        }
        numbers = fleet.view.numbers() | {fleet.me.number: fleet.me}
        for number, row in sorted(numbers.items()):
            if number <= after:
                continue
            rows.append((number, row.address, row.data_port, row.control_port))
            if len(encode_ok(way.request_id, **fields, brokers=rows)) > way.room - _HEAD:
                rows.pop()
                fields["more"] = True
                break
        return Decision(way, Done({**fields, "brokers": rows}))

    def heard(self, request: Request, way: Way) -> frozenset[int]:
        """A member has asked something; the topics that this changes."""
        if self.fleet is None or "port" not in request.fields:
            return frozenset()
        holder, moved = holder_of(request, way), frozenset[int]()
        lease, hears = self._registry.lease_of(holder), request.fields.get("hears")
        if lease is not None:
            lease.silent, lease.shared = 0, lease.shared and hears is None
        if lease is not None and hears is not None and (lease.home or lease.hears != tuple(hears)):
            lease.hears = tuple(hears)
            if lease.home:
                # It takes us for its home, whatever it was.
                self._registry.holdings.hold(lease, time.monotonic() + self._registry.lease)
                moved = frozenset(self._registry.moved(lease))
            self._registry.holdings.wants.touch(holder)
        return moved

    def came(self, request: Request, way: Way) -> frozenset[int]:
        """Somebody asks as a member, before it is looked whether it is one; the topics that this changes."""
        if self.fleet is None or request.op != "heartbeat":
            return frozenset()
        holder = holder_of(request, way)
        if self._registry.lease_of(holder) is not None:
            return frozenset()
        return frozenset(self.fleet.came(holder))

    def told(self, holder: Holder) -> tuple[int, ...] | None:
        """What answers say of the fleet; None: there is none."""
        return None if self.fleet is None else self.fleet.confirmed(holder)
