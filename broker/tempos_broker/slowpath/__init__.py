"""The slow path: every topic, in user space. A sans-IO core decides, one of two shells moves bytes."""

from __future__ import annotations

from tempos_broker.slowpath.book import BESIDE
from tempos_broker.slowpath.core import Delivery, SlowPath
from tempos_broker.slowpath.shell import SlowPathServer, SlowPathStatus

__all__ = ["BESIDE", "Delivery", "SlowPath", "SlowPathServer", "SlowPathStatus"]
