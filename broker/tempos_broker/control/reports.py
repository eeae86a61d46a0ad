"""What members tell of themselves, booked where it belongs.

A heartbeat, a drain and a goodbye carry the same fields; those that a client does not know are absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tempos_broker.account.accounts import Holder
from tempos_broker.account.consumers import Consumers
from tempos_broker.account.ledger import Ledger


class Reports:
    """Takes the fields of requests, as ``tempos.control.OPERATIONS`` has them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        #: How the programs behind the members keep up.
        self.consumers = Consumers()

    def book(self, holder: Holder, told: Mapping[str, Any], now: float) -> None:
        """Book what a member says."""
        full = bool(told["full"])
        for row in told["received"]:
            self._ledger.report(row.topic, row.group, holder, row.epoch, row.datagrams, full=full)
        for drop in told["dropped"] or ():
            if self._ledger.report_dropped(drop.topic, drop.group, holder, drop.datagrams):
                self.consumers.dropped(holder, now)
        publishers = self._ledger.publishers
        for lacking in told["lacking"] or ():
            publishers.lacking(holder, lacking)
        for heard in told["publishers"] or ():
            publishers.heard(holder, heard, now)
        if told["untold"] == 0:
            publishers.complete(holder, now)
        if told["queue"]:
            self.consumers.told(holder, told["waiting"] or 0, told["queue"], told["overruns"] or 0, now)
