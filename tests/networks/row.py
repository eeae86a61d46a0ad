"""What came of one case in one mode: a line of the table, with all that is needed to judge it."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = "TEMPOS_ROWS"


@dataclass
class Row:
    """Counts are datagrams of one event each.

    ``arrived``: different ones that the members got, with several groups the least of them; ``path``: who
    carried them by the broker's counters; ``reason``: the broker's, for that path; ``ledger``: the verdict of
    its account; ``client``: the member's own. ``verdict``: right, wrong (then ``fault`` says what) or absent
    (then ``fault`` says what this machine lacks).
    """

    case: str
    mode: str
    sent: int = 0
    arrived: int = 0
    path: str = ""
    reason: str = ""
    ledger: str = ""
    client: str = ""
    verdict: str = "wrong"
    fault: str = ""
    kernel: str = field(default_factory=platform.release)

    def write(self) -> None:
        """Append it where the environment says."""
        if path := os.environ.get(FILE):
            with Path(path).open("a") as file:
                file.write(json.dumps(asdict(self)) + "\n")

    def __str__(self) -> str:
        told = (f"{self.arrived} of {self.sent} arrived", self.path, self.reason, self.ledger, self.client)
        return "; ".join(part for part in told if part)
