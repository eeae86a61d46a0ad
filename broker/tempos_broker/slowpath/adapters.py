"""The adapters there are, by their names.

UDP's is always there. Others register under the entry-point group ``tempos.adapters``, as
``name = "module:callable"``; the callable is a :class:`~.adapter.Factory`. The name is then allowed for
``broker.adapter``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tempos import ConfigError, Unavailable
from tempos_broker.slowpath.adapter import Factory
from tempos_broker.slowpath.udp import UdpAdapter

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "tempos.adapters"
UDP = "udp"


def names(found: Iterable[EntryPoint] | None = None) -> list[str]:
    """The adapters there are."""
    return sorted({UDP} | {point.name for point in _registered(found)})


def find(name: str, found: Iterable[EntryPoint] | None = None) -> Factory:
    """The adapter of this name; raises :class:`ConfigError` naming those there are, or :class:`Unavailable`.

    ``found``: None stands for what is installed.
    """
    if name == UDP:
        # Not by its entry point: it is there without an installation, too.
        return UdpAdapter
    points = list(_registered(found))
    for point in points:
        if point.name != name:
            continue
        try:
            factory: Factory = point.load()
        except (ImportError, AttributeError) as error:
            raise Unavailable(f"the adapter {name!r} ({point.value}) cannot be loaded: {error}") from error
        return factory
    allowed = ", ".join(f'"{each}"' for each in names(points))
    raise ConfigError([f'broker.adapter: is "{name}"; allowed: {allowed}'])


def installed() -> Iterable[EntryPoint]:
    """What packages of this environment register."""
    # Only here: it is slow to import, and the usual adapter needs no looking up.
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _registered(found: Iterable[EntryPoint] | None) -> Iterable[EntryPoint]:
    return installed() if found is None else found
