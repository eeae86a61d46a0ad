"""Values that somebody else wrote, to the type of each: what makes no sense raises :class:`ValueError`.

Of JSON or MessagePack alike. Nothing here knows what the values stand for together.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeVar

from tempos_broker.account.accounts import SHARED, Holder, shared_holder

_T = TypeVar("_T")
U32, U64 = (1 << 32) - 1, (1 << 64) - 1


def whole(value: Any, least: int = 0, most: int = U64) -> int:
    """A whole number in these bounds."""
    # True is an int to Python, and no number to anybody else.
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{value!r} is no whole number from {least} to {most}")
    return value


def wholes(values: Any) -> list[int]:
    """A list of whole numbers."""
    return [whole(value) for value in listed(values)]


def sums(values: Any, count: int) -> None:
    """So many whole numbers."""
    if len(wholes(values)) != count:
        raise ValueError(f"{values!r} are not {count} sums")


def epoch_of(value: Any) -> int:
    """The number of an epoch."""
    return whole(value, 0, U32)


def port_of(value: Any) -> int:
    """A UDP port."""
    return whole(value, 1, 0xFFFF)


def listed(value: Any) -> list[Any]:
    """A list."""
    if type(value) is not list:
        raise ValueError(f"{value!r} is no list")
    return value


def seconds(value: Any) -> float:
    """A number of seconds that is one."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number of seconds")
    return float(value)


def name_of(value: Any) -> str:
    """A text that is not empty."""
    if type(value) is not str or not value:
        raise ValueError(f"{value!r} is no name")
    return value


def flag(value: Any) -> None:
    """True or false."""
    if type(value) is not bool:
        raise ValueError(f"{value!r} is neither true nor false")


def address_of(value: Any) -> str:
    """An IPv4 address."""
    return _address(name_of(value))


@lru_cache(SHARED)
def _address(text: str) -> str:
    return str(ipaddress.IPv4Address(text))


def holder_of_row(stored: Any) -> Holder:
    """Who holds a place in a group: address, port, client."""
    ip, port, client = listed(stored)
    return shared_holder(address_of(ip), port_of(port), None if client is None else whole(client))


def distinct(values: Iterable[_T]) -> set[_T]:
    """None of them twice."""
    values = list(values)
    if len(found := set(values)) != len(values):
        raise ValueError("the same stands there twice")
    return found
