"""The client's side of the control protocol: a sans-IO core, what it tells, and a shell around it."""

from tempos.session.core import ControlSession

__all__ = ["ControlSession"]
