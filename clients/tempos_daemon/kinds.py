"""The kinds of values that configurations hold: numbers, names, addresses, networks.

Each is a :class:`~tempos_daemon.schema.Kind`; addresses come out in their canonical form, so
that equal ones compare equal.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tempos import auth, names
from tempos.auth import MAX_KEY_BYTES, MIN_KEY_BYTES
from tempos_daemon import token
from tempos_daemon.schema import Kind, NotAllowed, near

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - compared with, not bound to
MAX_NAME = 64
#: PATH_MAX of Linux.
MAX_PATH = 4095
#: IFNAMSIZ of linux/if.h, less the terminating zero.
MAX_INTERFACE_NAME = 15
_MAC = re.compile(r"[0-9A-Fa-f]{1,2}(?::[0-9A-Fa-f]{1,2}){5}")
NO_MAC = "00:00:00:00:00:00"


def whole(low: int, high: int, note: str = "", *, but: int | None = None) -> Kind:
    """An integer in a range, ``but`` one; in TOML ``true`` is none. ``note`` says why so."""

    def parse(value: object) -> int:
        if type(value) is not int or not low <= value <= high or value == but:
            raise NotAllowed
        return value

    less = "" if but is None else f" but {but}"
    schema: dict[str, Any] = {"type": "integer", "minimum": low, "maximum": high}
    if but is not None:
        schema["not"] = {"const": but}
    return Kind(f"an integer from {low} to {high}{less}{note}", parse, schema=schema)


def seconds(low: float, high: float) -> Kind:
    """A length of time, integer or float, never ``nan`` or ``inf``."""

    def parse(value: object) -> float:
        if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
            raise NotAllowed
        return float(value)  # type: ignore[arg-type]

    schema = {"type": "number", "minimum": low, "maximum": high}
    return Kind(f"a number of seconds from {low:g} to {high:g}", parse, schema=schema)


def choice(*words: str, made: Callable[[str], Any] = str) -> Kind:
    """One of a few words."""

    def parse(value: object) -> Any:
        if not isinstance(value, str):
            raise NotAllowed
        if value not in words:
            raise NotAllowed(near(value, words).strip(" ()"))
        return made(value)

    return Kind(" or ".join(f'"{word}"' for word in words), parse, schema={"enum": list(words)})


def member_of(kind: type[enum.Enum]) -> Kind:
    """One of the values of an enumeration."""
    return choice(*(str(item.value) for item in kind), made=kind)


def matching(pattern: str | re.Pattern[str], allowed: str, *, secret: bool = False) -> Kind:
    """Text that a regular expression matches as a whole; ``allowed`` says the same in words."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise NotAllowed
        return value

    return Kind(allowed, parse, secret=secret)


def name(reserved: str = "") -> Kind:
    """A name for people; none may begin with ``reserved``."""
    rule = f'not beginning with "{reserved}" (names the broker gives)' if reserved else ""

    def parse(value: object) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
            raise NotAllowed
        if not value.isprintable():
            raise NotAllowed("which has characters that cannot be printed")
        if value != value.strip():
            raise NotAllowed("which has white space at an end")
        if reserved and value.startswith(reserved):
            raise NotAllowed
        return value

    allowed = f"text of 1 to {MAX_NAME} printable characters, no white space at the ends"
    return Kind(f"{allowed}, {rule}" if rule else allowed, parse)


def without(
    fault_in: Callable[[object], str | None], *, beside: tuple[str, ...] = ()
) -> Callable[[object], str]:
    """A parser of what :mod:`tempos.names` finds no fault in; ``beside``: what else is allowed."""

    def parse(value: object) -> str:
        fault = None if value in beside else fault_in(value)
        if fault is not None:
            raise NotAllowed(fault)
        return str(value)

    return parse


def ipv4(value: object) -> ipaddress.IPv4Address:
    """Parse an IPv4 address of any sort."""
    if not isinstance(value, str):
        raise NotAllowed
    return _ipv4(value)


@lru_cache(1024)
def _ipv4(text: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        raise NotAllowed from None


def _listen(value: object) -> str:
    return _address(ipv4(value))


@lru_cache(1024)
def _address(address: ipaddress.IPv4Address) -> str:
    # A file of thousands of topics may have it in each.
    if address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255"):
        raise NotAllowed("which is no address of one machine")
    return str(address)


def unicast(value: object) -> str:
    """Parse the IPv4 address of one machine."""
    if ipv4(value) == ipaddress.IPv4Address(0):
        raise NotAllowed("which is no address of one machine")
    return _listen(value)


def any_mac(value: object) -> str:
    """Parse a MAC address of any sort."""
    if not isinstance(value, str) or not _MAC.fullmatch(value):
        raise NotAllowed
    return ":".join(f"{int(octet, 16):02x}" for octet in value.split(":"))


def _mac(value: object) -> str:
    mac = any_mac(value)
    if mac == NO_MAC:
        raise NotAllowed("which is no address")
    if int(mac[:2], 16) & 1:
        raise NotAllowed("which is a group's address, not one machine's")
    return mac


def _network(value: object) -> str:
    if not isinstance(value, str):
        raise NotAllowed
    try:
        return str(ipaddress.IPv4Network(value))
    except ValueError:
        pass
    try:
        wider = ipaddress.IPv4Network(value, strict=False)
    except ValueError:
        raise NotAllowed from None
    raise NotAllowed(f'which has host bits set (did you mean "{wider}"?)')


def _api(value: object) -> tuple[str, int]:
    if value == "off":
        # The port 0 of a BrokerConfig says off; the host then means nothing.
        return "127.0.0.1", 0
    if not isinstance(value, str):
        raise NotAllowed
    host, _, digits = value.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", digits) or not 0 < int(digits) <= 0xFFFF:
        raise NotAllowed
    return _listen("127.0.0.1" if host == "localhost" else host), int(digits)


def _interface(value: object) -> str:
    # What dev_valid_name() of the kernel takes.
    if not isinstance(value, str) or not value.isprintable():
        raise NotAllowed
    if not 0 < len(value.encode()) <= MAX_INTERFACE_NAME or value in (".", ".."):
        raise NotAllowed
    if any(character in "/:" or character.isspace() for character in value):
        raise NotAllowed
    return value


def is_loopback(ip: str) -> bool:
    """Whether an address never leaves the machine."""
    return ipaddress.IPv4Address(ip).is_loopback


def _secret(value: object) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", value):
        raise NotAllowed
    secret = bytes.fromhex(value)
    if not MIN_KEY_BYTES <= len(secret) <= MAX_KEY_BYTES:
        raise NotAllowed
    return secret


def file_path(value: object) -> str:
    """Parse the path of a file."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_PATH:
        raise NotAllowed
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise NotAllowed
    return value


PORT = whole(1, 0xFFFF)
TOPIC_NAME = Kind(names.NAME_RULE, without(names.name_fault))
BROKER_NAME = matching(
    r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", '1 to 32 letters, digits, "-" and "_", the first a letter or digit'
)
TOKEN = matching(f"|{token.PATTERN.pattern}", f'{token.ALLOWED}, "" for none', secret=True)
FILE = Kind('the path of a file, "" for none', file_path)
FLAG = Kind("true or false", _flag, schema={"type": "boolean"})
LISTEN = Kind('an IPv4 address of this machine, or "0.0.0.0" for all of them', _listen)
UNICAST = Kind('the IPv4 address of one machine, such as "10.0.0.7"', unicast)
MAC = Kind('the MAC address of one machine, such as "40:a6:b7:66:39:ba"', _mac)
NETWORK = Kind('an IPv4 network such as "10.0.0.0/8"', _network)
API = Kind('"host:port" with an IPv4 address and a port from 1 to 65535, or "off"', _api)
KEY_ID = matching(auth.KEY_ID, auth.KEY_ID_RULE)
SECRET = Kind(
    f"{2 * MIN_KEY_BYTES} to {2 * MAX_KEY_BYTES} hex digits, such as `openssl rand -hex 32` gives",
    _secret,
    secret=True,
)
USER = matching(r"|[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}", 'the name of a user of this machine, "" for none')
INTERFACE = Kind('the name of a network interface, such as "eth0"', _interface)
