"""The kinds of values that only a broker's configuration holds: rights, adapters, the thesis's addresses."""

from __future__ import annotations

from tempos import names
from tempos_broker.config.model import EVERY_TOPIC
from tempos_daemon.kinds import ANY_ADDRESS, NO_MAC, any_mac, file_path, ipv4, matching, unicast, without
from tempos_daemon.schema import Kind, NotAllowed


def _any_ipv4(value: object) -> str:
    return str(ipv4(value))


def _repair(value: object) -> bool | None:
    if value == "auto":
        return None
    if isinstance(value, bool):
        return value
    raise NotAllowed


REPAIR = Kind(
    'true, false or "auto"',
    _repair,
    schema={"anyOf": [{"type": "boolean"}, {"type": "string", "const": "auto"}]},
)
#: Topics that a client may do something with.
RIGHT = Kind(
    f'a topic\'s name, "{EVERY_TOPIC}" for every topic, or a filter: {names.FILTER_RULE}',
    without(names.filter_fault, beside=(EVERY_TOPIC,)),
)
ADAPTER = matching(
    r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", 'the name of an adapter that is installed, such as "udp"'
)
STATE_FILE = Kind('the path of a file, "" for the usual one, or "off"', file_path)
FLEET = matching(
    r"|[A-Za-z0-9][A-Za-z0-9_-]{0,31}",
    '1 to 32 letters, digits, "-" and "_", the first a letter or digit, or "" for none',
)
ZONE = matching(
    r"|[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", '1 to 32 letters, digits, "-", "_" and ".", or "" for none'
)
ENDPOINT = matching(
    r"https?://[A-Za-z0-9.-]+:[0-9]{1,5}/?", 'the URL of a member of etcd, such as "http://10.0.0.5:2379"'
)
ETCD_USER = matching(r"[^\x00-\x1f\x7f]{0,64}", 'the name of a user of etcd, "" for none')
PASSWORD = matching(
    r"[^\x00-\x1f\x7f]{0,128}", 'a password of at most 128 characters, "" for none', secret=True
)


def _address(value: object) -> str:
    return "" if value == "" else unicast(value)


FLEET_ADDRESS = Kind('the IPv4 address of one machine, "" for the first of broker.listen', _address)
#: As the thesis's format has them: zero where an entry is padding.
THESIS_IP = Kind('an IPv4 address, "0.0.0.0" in padding', _any_ipv4)
THESIS_MAC = Kind('a MAC address, "0:0:0:0:0:0" in padding', any_mac)


def is_padding(ip: str | None, mac: str | None) -> bool:
    """Whether an entry of the thesis's format only fills the table up."""
    return ip == ANY_ADDRESS and mac == NO_MAC
