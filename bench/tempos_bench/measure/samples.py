"""Latency samples: kept raw, packed small, and boiled down to the figures that are asked of them.

A sample is a time in whole nanoseconds below 2^32. Packed they are four planes of bytes (all lowest
bytes, then the next, ...), deflated, in base64: about two bytes a sample, nothing rounded, nothing
left out, readable anywhere in a line of code. Jitter is the mean difference of the transit times of
events that arrived one after the other: what the estimator of RFC 3550 (section 6.4.1) estimates, without
its smoothing.
"""

from __future__ import annotations

import base64
import binascii
import math
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tempos_bench.measure.stats import percentile

ENCODING = "u32-planes-deflate-base64"
_WORD = 4
_MOST = 2**32 - 1
#: `array` names its types by C's; this one has four bytes wherever Linux runs.
_CODE = "I"


@dataclass(frozen=True, slots=True)
class Latency:
    """One-way latency of so many events, and its jitter; microseconds. nan where there is no event."""

    count: int
    p50: float
    p99: float
    p999: float
    max: float
    jitter: float


def pack(samples: Sequence[int]) -> dict[str, Any]:
    """Samples as a JSON object; raises :class:`ValueError` for one outside 0 to 2^32 - 1."""
    try:
        words = samples if isinstance(samples, array) else array(_CODE, samples)
    except OverflowError as error:
        raise ValueError(f"a sample is outside 0 to {_MOST} ns") from error
    data = _little(words).tobytes()
    planes = b"".join(data[plane::_WORD] for plane in range(_WORD))
    text = base64.b64encode(zlib.compress(planes, 6)).decode("ascii")
    return {"encoding": ENCODING, "unit": "ns", "count": len(words), "data": text}


def unpack(record: Any) -> array[int]:
    """What :func:`pack` made of it; raises :class:`ValueError` saying what is wrong with anything else."""
    if not isinstance(record, dict) or record.get("encoding") != ENCODING:
        raise ValueError(f"no samples: an object with encoding {ENCODING!r} is needed")
    try:
        planes = zlib.decompress(base64.b64decode(record["data"], validate=True))
    except (KeyError, TypeError, binascii.Error, zlib.error) as error:
        raise ValueError(f"samples that cannot be unpacked: {error!r}") from error
    count = len(planes) // _WORD
    if len(planes) % _WORD or count != record.get("count"):
        raise ValueError(f"samples of {len(planes)} bytes, not {record.get('count')} times {_WORD}")
    data = bytearray(len(planes))
    for plane in range(_WORD):
        data[plane::_WORD] = planes[plane * count : (plane + 1) * count]
    words = array(_CODE)
    words.frombytes(data)
    return _little(words)


def readable(records: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], list[float]]]:
    """Each of :func:`pack`'s records that has samples, with these in microseconds.

    Another version's packing is left out.
    """
    for record in records:
        try:
            values = unpack(record)
        except ValueError:
            continue
        if values:
            yield record, [value / 1000 for value in values]


def summarize(samples: Sequence[int]) -> Latency:
    """The figures of samples in the order of their arrival."""
    ordered = sorted(samples)
    p50, p99, p999 = (percentile(ordered, percent) / 1000 for percent in (50, 99, 99.9))
    worst = ordered[-1] / 1000 if ordered else math.nan
    return Latency(len(ordered), p50, p99, p999, worst, jitter(samples) / 1000)


def jitter(samples: Sequence[int]) -> float:
    """Mean difference from one sample to the next, nanoseconds; nan of fewer than two."""
    if len(samples) < 2:
        return math.nan
    return sum(abs(b - a) for a, b in pairwise(samples)) / (len(samples) - 1)


def _little(words: array[int]) -> array[int]:
    """Little-endian words as the host has them, or the other way."""
    if sys.byteorder == "big":
        words = words[:]
        words.byteswap()
    return words
