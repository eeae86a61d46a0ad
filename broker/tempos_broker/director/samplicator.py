"""samplicator: a line for each network of senders, with the receivers that get a copy.

    ADDRESS[/MASK or PREFIX]: RECEIVER[/PORT[/EVERY[,TTL]]] ...

A datagram goes to the receivers of every line that its sender matches; a receiver's port may be a range
(``5000-5003``) or a number of them (``5000+4``), each a receiver of its own; 2000 if nothing is said. Port
to listen at, receivers of every datagram and the kept source are options of its command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network
from itertools import combinations
from pathlib import Path

from tempos_broker.director.found import (
    EVERYBODY,
    Collector,
    Copy,
    Found,
    Listener,
    address_of,
    lines_of,
    merged,
    network_of,
    port_of,
)

#: Of receivers, and to listen at.
DEFAULT_PORT = 2000
_PORTS = re.compile(r"(\d+)(?:([-+])(\d+))?")


def read(path: Path | None, ports: tuple[int, ...], to: Iterable[str], keep: bool) -> Found:
    """A file, and what its command line says: ``ports`` (-p), ``to`` (receivers), ``keep`` (-S)."""
    found = Found()
    if not ports:
        ports = (DEFAULT_PORT,)
        found.remarks.append(
            f"Listens at samplicator's own default, {DEFAULT_PORT}: the files do not tell its -p."
        )
    copies = [
        copy
        for each in to
        for copy in _receiver(each, "the command line", frozenset({EVERYBODY}), keep, found)
    ]
    for number, line in lines_of(path, "#") if path else ():
        where = f"{path}:{number}"
        try:
            networks, receivers = _halves(line)
            sources = frozenset({network_of(networks)})
        except ValueError as error:
            found.left_out.append(f"{where}: {error}")
            continue
        for each in receivers.split():
            copies += _receiver(each, where, sources, keep, found)
    _tell_overlaps(copies, found)
    found.listeners.append(Listener(ports, merged(copies), where=str(path or "the command line")))
    return found


def _halves(line: str) -> tuple[str, str]:
    # An address of IPv6 has colons itself, and stands in brackets.
    at = line.find(":", line.find("]") + 1 if line.startswith("[") else 0)
    if at < 0:
        raise ValueError("no colon after the senders")
    return line[:at].strip(), line[at + 1 :]


def _receiver(
    text: str, where: str, sources: frozenset[IPv4Network], keep: bool, found: Found
) -> Iterator[Copy]:
    try:
        if text.startswith("["):
            raise ValueError(f"{text} is of IPv6; tempos serves IPv4")
        host, _, rest = text.partition("/")
        port, _, rest = rest.partition("/")
        every, _, ttl = rest.partition(",")
        address, numbers = address_of(host), _numbers(port)
        if every and (not every.isascii() or not every.isdigit() or int(every) < 1):
            raise ValueError(f"{every!r} of {text} is no number of datagrams")
    except ValueError as error:
        found.left_out.append(f"{where}: {error}")
        return
    if ttl:
        found.left_out.append(f"{where}: the TTL of {text}: datagrams leave with the host's")
    for number in numbers:
        collector = Collector(address, number)
        yield Copy(str(collector), (collector,), sources, int(every or 1), keep, where)


def _numbers(text: str) -> range:
    if not text:
        return range(DEFAULT_PORT, DEFAULT_PORT + 1)
    if not (match := _PORTS.fullmatch(text)):
        raise ValueError(f"{text!r} is no port, nor several (5000-5003, 5000+4)")
    first, kind, other = match.groups()
    last = int(first) + int(other) - 1 if kind == "+" else int(other or first)
    port_of(first)
    port_of(str(last))
    if last < int(first):
        raise ValueError(f"{text!r} are no ports: the last one is below the first")
    return range(int(first), last + 1)


def _tell_overlaps(copies: list[Copy], found: Found) -> None:
    twice = {
        one.name
        for one, other in combinations(copies, 2)
        if (one.collectors, one.every) == (other.collectors, other.every)
        and any(a.overlaps(b) for a in one.sources for b in other.sources)
    }
    found.remarks += (
        f"{copy} stands in two lines that a sender may match: it gets one copy, not two."
        for copy in dict.fromkeys(each.name for each in copies)
        if copy in twice
    )
