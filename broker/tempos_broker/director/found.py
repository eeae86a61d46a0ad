"""What was found in other programs' files, and the topics it makes.

Rule kept here: what is left out is said, with the file and the line where it stands.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tempos import ConfigError
from tempos_broker.config import parse
from tempos_broker.config.dump import dump_tables

#: What senders usually send to a port: names for topics.
USUAL = {
    162: "snmp-traps", 514: "syslog", 2055: "netflow", 4739: "ipfix", 6343: "sflow", 8125: "statsd",
    9995: "netflow", 12201: "gelf",
}  # fmt: skip
EVERYBODY = ipaddress.IPv4Network("0.0.0.0/0")


class Unreadable(Exception):
    """A file cannot be taken over at all; says where and why."""


@dataclass(frozen=True, slots=True)
class Collector:
    """Where datagrams go: an IPv4 address and a port."""

    ip: str
    port: int
    weight: int = 1

    def __str__(self) -> str:
        return f"{self.ip}-{self.port}"


@dataclass(frozen=True, slots=True)
class Copy:
    """One of ``collectors`` gets a copy of one of ``every`` datagrams from ``sources``."""

    name: str
    collectors: tuple[Collector, ...]
    sources: frozenset[ipaddress.IPv4Network] = frozenset({EVERYBODY})
    every: int = 1
    keep: bool = False
    #: File and line that it stands in.
    where: str = field(default="", compare=False)

    @property
    def networks(self) -> tuple[str, ...]:
        """None where it is for everybody's."""
        networks = tuple(ipaddress.collapse_addresses(self.sources))
        return () if EVERYBODY in networks else tuple(map(str, networks))


@dataclass(slots=True)
class Listener:
    """What arrives at ``ports``, and the copies of it. ``pick``: how one of several collectors is chosen."""

    ports: tuple[int, ...]
    copies: list[Copy] = field(default_factory=list)
    pick: str = "turn"
    #: Whose datagrams are taken at all; none: everybody's.
    sources: tuple[str, ...] = ()
    where: str = ""


@dataclass(slots=True)
class Found:
    """All of a program's files. ``left_out``: what tempos is not told, and why; ``remarks``: what to know."""

    listeners: list[Listener] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def text_of(path: Path) -> str:
    """Raises :class:`Unreadable`."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise Unreadable(f"{path}: cannot be read: {error.strerror or error}") from error


def lines_of(path: Path, comment: str) -> Iterator[tuple[int, str]]:
    """Each line that says something, with its number; ``comment``: the characters that begin one."""
    for number, line in enumerate(text_of(path).splitlines(), 1):
        for mark in comment:
            line = line.partition(mark)[0]
        if line := line.strip():
            yield number, line


def address_of(host: str) -> str:
    """The IPv4 address of a host, its first if it has several; raises ValueError with the reason."""
    return addresses_of(host)[0]


def addresses_of(host: str) -> list[str]:
    """The IPv4 addresses of a host; raises ValueError with the reason."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        try:
            found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_DGRAM)
            return list(dict.fromkeys(str(each[4][0]) for each in found))
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{host} has no IPv4 address: {getattr(error, 'strerror', error)}") from error
    if address.version == 6:
        raise ValueError(f"{host} is of IPv6; tempos serves IPv4")
    return [str(address)]


def port_of(text: str) -> int:
    """A port's number; raises ValueError with the reason."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ValueError(f"{text!r} is no port; allowed: 1 to 65535")
    return int(text)


def network_of(text: str) -> ipaddress.IPv4Network:
    """An address, with a prefix's length or a mask; raises ValueError with the reason."""
    host, _, mask = text.partition("/")
    if host.startswith("["):
        raise ValueError(f"{text} is of IPv6; tempos serves IPv4")
    try:
        return ipaddress.IPv4Network((address_of(host), mask or 32), strict=False)
    except (ipaddress.NetmaskValueError, ipaddress.AddressValueError) as error:
        raise ValueError(f"{text} is no network: {mask} is no mask of leading ones") from error


def document(found: Found, origin: str) -> str:
    """A file's ``[[topic]]`` tables, as a broker takes them; raises :class:`Unreadable` if there are none."""
    topics: dict[str, str] = {}
    names: set[str] = set()
    for listener in found.listeners:
        _name_each_once(listener, found)
        name = _unused(_name(listener.ports), names)
        if listener.copies and (topic := _accepted(listener, name, topics, found)):
            topics[name] = topic
    for lines in (found.left_out, found.remarks):
        lines[:] = dict.fromkeys(lines)
    if not topics:
        raise Unreadable("\n".join([f"{origin}: nothing in it is for tempos", *found.left_out]))
    head = [f"# Made of {origin}.", *(f"# {line}" for line in found.remarks)]
    head += [f"# Left out: {line}" for line in found.left_out]
    return "\n".join(("\n".join(head) + "\n", *topics.values()))


def _accepted(listener: Listener, name: str, before: dict[str, str], found: Found) -> str | None:
    """Of a topic what a broker takes beside those ``before``; ports and members left out are told."""
    topic = _topic(listener, name)
    if not _refused(topic, name, before):
        return topic
    kept = replace(listener, ports=(), copies=[])
    for port in listener.ports:
        tried = replace(kept, ports=(*kept.ports, port))
        if why := _refused(_topic(tried, name), name, before):
            found.left_out.append(f"{listener.where}: port {port}: {why}")
        else:
            kept = tried
    for copy in listener.copies if kept.ports else ():
        taken: tuple[Collector, ...] = ()
        for each in copy.collectors:
            tried = replace(kept, copies=[*kept.copies, replace(copy, collectors=(*taken, each))])
            if why := _refused(_topic(tried, name), name, before):
                found.left_out.append(f"{copy.where}: {each.ip}:{each.port}: {why}")
            else:
                taken = (*taken, each)
        if taken:
            kept.copies.append(replace(copy, collectors=taken))
    return _topic(kept, name) if kept.copies else None


def _refused(topic: str, name: str, before: dict[str, str]) -> str:
    """Why a broker would not take a topic beside those ``before``; "" if it would."""
    try:
        parse("\n".join((*before.values(), topic)), name)
    except ConfigError as error:
        names = [*before, name]
        said = error.problems[0].removeprefix(f"{name}: ").replace(f"topic[{len(before)}].", "")
        said = re.sub(r"topic\[(\d+)\]", lambda match: names[int(match[1])], said)
        return re.sub(r"member\[\d+\][. ]", "", said)
    return ""


def merged(copies: Iterable[Copy]) -> list[Copy]:
    """Those alike but for their sources as one, each with a name of its own."""
    alike: dict[tuple[object, ...], Copy] = {}
    for each in copies:
        key = (each.collectors, each.every, each.keep)
        before = alike.get(key)
        alike[key] = replace(before, sources=before.sources | each.sources) if before else each
    names: set[str] = set()
    return [replace(each, name=_unused(each.name, names)) for each in alike.values()]


def _name_each_once(listener: Listener, found: Found) -> None:
    """A topic has no member twice."""
    known: dict[tuple[str, int], str] = {}
    copies = []
    for copy in listener.copies:
        new = tuple(each for each in copy.collectors if (each.ip, each.port) not in known)
        for each in copy.collectors:
            if each not in new:
                beside = known[each.ip, each.port]
                found.left_out.append(f"{copy.where}: {copy.name}: {each} again, beside {beside}")
            known.setdefault((each.ip, each.port), copy.name)
        if new:
            copies.append(replace(copy, collectors=new))
    listener.copies = copies


def _topic(listener: Listener, name: str) -> str:
    options: list[dict[str, Any]] = []
    members: list[dict[str, Any]] = []
    for copy in listener.copies:
        special = {
            "sources": copy.networks or None,
            "every": copy.every if copy.every > 1 else None,
            "source": "keep" if copy.keep else None,
        }
        if any(special.values()):
            options.append({"name": copy.name, **special})
        members += (
            {"ip": each.ip, "port": each.port, "group": copy.name, "weight": _weight(listener, each)}
            for each in copy.collectors
        )
    pick = None if listener.pick == "turn" else listener.pick
    topic = {"name": name, "ports": listener.ports, "sources": listener.sources or None, "pick": pick}
    return dump_tables(topic, options, members)


def _weight(listener: Listener, collector: Collector) -> int | None:
    return collector.weight if listener.pick != "turn" and collector.weight > 1 else None


def _name(ports: tuple[int, ...]) -> str:
    return next((USUAL[port] for port in ports if port in USUAL), f"port-{ports[0]}")


def _unused(name: str, taken: set[str]) -> str:
    at, wanted = 1, name
    while name in taken:
        at += 1
        name = f"{wanted}-{at}"
    taken.add(name)
    return name
