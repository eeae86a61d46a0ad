"""Where a broker is, as people write it: in options, in the environment, in URLs of control APIs.

HOST                        10.0.1.1, broker.example
HOST:CONTROL                10.0.1.1:9997
HOST:CONTROL:DATA           10.0.1.1:9997:9998
ONE,OTHER                   10.0.1.1,10.0.2.1: brokers of a fleet with the same ports; the first is preferred
[IPV6]:PORT                 of a control API alone: events and control travel by IPv4
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from typing import NamedTuple

from tempos import _abi
from tempos.errors import LocalError

#: Which broker commands ask where no option says so.
VARIABLE = "TEMPOS_BROKER"
LOOPBACK = "127.0.0.1"


class Place(NamedTuple):
    """A host, or several with commas between, and the ports that were told; None: the usual one."""

    host: str
    control: int | None = None
    data: int | None = None


def broker_at(text: str) -> Place:
    """What ``text`` says; raises :class:`LocalError`."""
    if "," in text:
        places = [broker_at(each.strip()) for each in text.split(",")]
        told = {each[1:] for each in places}
        if len(told) > 1:
            raise LocalError(f"brokers of one list have the same ports, those of {text!r} have not")
        return places[0]._replace(host=",".join(dict.fromkeys(each.host for each in places)))
    host, ports = _split(text, "HOST, HOST:PORT (its control port) or HOST:PORT:DATA_PORT")
    if len(ports) > 2:
        raise LocalError(f"{text!r} has too many ports: HOST, HOST:PORT or HOST:PORT:DATA_PORT")
    if _is_ipv6(host):
        raise LocalError(f"{text!r} is an IPv6 address: a broker's is IPv4, or a name that leads to one")
    return Place(host, *ports)


def ports_at(broker: str | Sequence[str], control: int, data: int = _abi.DATA_PORT) -> tuple[str, int, int]:
    """Host, control and data port of ``broker``, whose ports hold where the others are the usual ones.

    Of several brokers the hosts, with commas between. Raises :class:`LocalError`.
    """
    told = broker_at(broker if isinstance(broker, str) else ",".join(broker))
    if told.control is not None and control == _abi.CONTROL_PORT:
        control = told.control
    if told.data is not None and data == _abi.DATA_PORT:
        data = told.data
    return told.host, control, data


def api_at(text: str, usual: int = _abi.API_PORT) -> str:
    """The URL of a control API: ``text`` is one, or HOST, HOST:PORT or [IPV6]:PORT.

    ``usual``: its port where none is told. Raises :class:`LocalError`.
    """
    if "://" in text:
        return text
    host, ports = _split(text, "an http URL, HOST or HOST:PORT")
    if len(ports) > 1:
        raise LocalError(f"{text!r} has too many ports for a control API: an http URL, HOST or HOST:PORT")
    bracketed = f"[{host}]" if _is_ipv6(host) else host
    return f"http://{bracketed}:{ports[0] if ports else usual}"


def usual_api(broker: Place | None = None) -> str:
    """The URL of a broker's control API where none is told: $TEMPOS_API, else on the broker's host.

    ``broker``: the one that is asked for the rest; else $TEMPOS_BROKER.
    """
    if told := os.environ.get("TEMPOS_API"):
        return api_at(told)
    place = broker or broker_at(os.environ.get(VARIABLE) or LOOPBACK)
    return f"http://{place.host.partition(',')[0]}:{_abi.API_PORT}"


def _split(text: str, allowed: str) -> tuple[str, list[int]]:
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or not _is_ipv6(host) or (rest and not rest.startswith(":")):
            raise LocalError(f"{text!r} is not [IPV6]:PORT")
        after = rest[1:].split(":") if rest else []
    elif _is_ipv6(text):
        host, after = text, []
    else:
        host, *after = text.split(":")
    if not host or any(each.isspace() or each in "/@?#" for each in host):
        raise LocalError(f"{text!r} names no host: {allowed}")
    return host, [_port(each, text) for each in after]


def _port(digits: str, text: str) -> int:
    if digits.isascii() and digits.isdigit() and len(digits) <= 5 and 1 <= int(digits) <= 0xFFFF:
        return int(digits)
    raise LocalError(f"{digits!r} in {text!r} is not a port, 1-65535")


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
