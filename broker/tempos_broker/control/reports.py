"""What members tell of themselves, booked where it belongs.

A heartbeat, a drain and a goodbye carry the same fields; those that a client does not know are absent.

What a member tells for the account of another instance is passed over: it was on its way, or told again,
while this broker, which remembers nothing of it, let the member in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tempos_broker.account.accounts import Holder
from tempos_broker.account.consumers import Consumers
from tempos_broker.account.ledger import Ledger
from tempos_broker.members.known import own_group


class Reports:
    """Takes the fields of requests, as ``tempos.control.OPERATIONS`` has them."""

    def __init__(self, ledger: Ledger, instance: int) -> None:
        self._ledger = ledger
        self._instance = instance
        #: How the programs behind the members keep up.
        self.consumers = Consumers()
        #: Hears who tells what became of what it missed: it goes on asking for it.
        self.on_repairs: Callable[[int, Holder], None] = lambda topic, holder: None

    def book(self, holder: Holder, told: Mapping[str, Any], now: float) -> None:
        """Book what a member says."""
        if told["instance"] not in (None, self._instance):
            return
        full = bool(told["full"])
        for row in told["received"]:
            self._ledger.report(row.topic, row.group, holder, row.epoch, row.datagrams, full=full)
        for drop in told["dropped"] or ():
            if self._ledger.report_dropped(drop.topic, drop.group, holder, drop.datagrams):
                self.consumers.dropped(holder, now)
        for row in told["repairs"] or ():
            self._ledger.report_repairs(row.topic, row.group, holder, row.repaired, row.given_up)
            self.on_repairs(row.topic, holder)
        publishers = self._ledger.publishers
        for lacking in told["lacking"] or ():
            publishers.lacking(holder, lacking)
        for heard in told["publishers"] or ():
            publishers.heard(holder, heard, now)
        if told["untold"] == 0:
            publishers.complete(holder, now)
        if told["queue"]:
            self.consumers.told(holder, told["waiting"] or 0, told["queue"], told["overruns"] or 0, now)

    def book_former(self, holder: Holder, now_at: Holder, told: Mapping[str, Any]) -> None:
        """Book what a member got at a former place of its own, which it tells from where it is now.

        What it says of epochs in which it had no place there is passed over. To be called before
        :meth:`book`: of a count for both places only the rest is for where it is now.
        """
        if told["instance"] not in (None, self._instance):
            return
        full = bool(told["full"])
        own = own_group(now_at.ip, now_at.port)
        for row in told["received"]:
            group = own_group(holder.ip, holder.port) if row.group == own else row.group
            before, here = (group, holder), (row.group, now_at)
            self._ledger.report_former(row.topic, before, here, row.epoch, row.datagrams, full=full)
