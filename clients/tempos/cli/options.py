"""Options that several commands share, and the checks of their values."""

from __future__ import annotations

import argparse
import math
import os
from datetime import timedelta
from typing import TYPE_CHECKING

from tempos import CONTROL_PORT, DATA_PORT, LocalError
from tempos.session.place import LOOPBACK, VARIABLE, Place, broker_at

if TYPE_CHECKING:
    from tempos import Key, TopicKeys


def add_client(parser: argparse.ArgumentParser) -> None:
    """What every publisher and subscriber takes."""
    add_broker(parser)
    add_auth(parser)
    add_keys(parser)
    add_wait(parser)


def add_publisher(parser: argparse.ArgumentParser) -> None:
    """The same, and where a publisher sends."""
    add_client(parser)
    add_data_port(parser)


def add_broker(parser: argparse.ArgumentParser) -> None:
    """Add ``-b`` and ``--control-port``; :func:`broker` and the others say what was told."""
    parser.add_argument(
        "-b",
        "--broker",
        metavar="HOST[:PORT]",
        type=place,
        default=os.environ.get(VARIABLE) or LOOPBACK,
        help="address or name of the broker, and its control port, or both ports: HOST:PORT:DATA_PORT "
        "(default: $TEMPOS_BROKER, else 127.0.0.1)",
    )
    parser.add_argument(
        "--control-port",
        metavar="PORT",
        type=port,
        help=f"UDP port of the broker's control (default: that of -b, else {CONTROL_PORT})",
    )


def place(text: str) -> Place:
    """HOST, HOST:PORT or HOST:PORT:DATA_PORT."""
    try:
        return broker_at(text)
    except LocalError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def control_port(options: argparse.Namespace) -> int:
    """Of :func:`add_broker`."""
    told: int | None = options.control_port or options.broker.control
    return told or CONTROL_PORT


def data_port(options: argparse.Namespace) -> int:
    """Of :func:`add_data_port`."""
    told: int | None = options.data_port or options.broker.data
    return told or DATA_PORT


def add_auth(parser: argparse.ArgumentParser) -> None:
    """Add ``--auth-file``; :func:`key` reads what it names."""
    parser.add_argument(
        "--auth-file",
        metavar="FILE",
        default=os.environ.get("TEMPOS_AUTH"),
        help='sign what is asked of the broker with the key in FILE, one line "id hexkey" '
        "(default: $TEMPOS_AUTH, else unsigned)",
    )


def key(options: argparse.Namespace) -> Key | None:
    """The key of ``--auth-file``, if any; raises :class:`LocalError`."""
    from tempos.auth import read_key_file

    return read_key_file(options.auth_file) if options.auth_file else None


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Add ``--keys-file``; :func:`topic_keys` reads what it names."""
    parser.add_argument(
        "--keys-file",
        metavar="FILE",
        default=os.environ.get("TEMPOS_KEYS"),
        help="encrypt and decrypt the events of the topics in FILE, in each line a name or filter and a "
        "secret of 64 hexadecimal digits (default: $TEMPOS_KEYS, else in clear)",
    )


def topic_keys(options: argparse.Namespace) -> TopicKeys | None:
    """The keys of ``--keys-file``, if any; raises :class:`LocalError`."""
    from tempos.encryption import TopicKeys

    return TopicKeys.read(options.keys_file) if options.keys_file else None


def add_data_port(parser: argparse.ArgumentParser) -> None:
    """Add ``--data-port``."""
    parser.add_argument(
        "--data-port",
        metavar="PORT",
        type=port,
        help=f"UDP port of the broker for events (default: that of -b, else {DATA_PORT})",
    )


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Add ``--wait``."""
    parser.add_argument(
        "--wait",
        metavar="S",
        nargs="?",
        type=duration,
        const=math.inf,
        default=0.0,
        help="wait up to S seconds for a broker that is not there yet, without S for ever (default: do not); "
        "so long a publisher also waits for a way to it that is gone (default: 5)",
    )


def port(text: str) -> int:
    """A UDP port."""
    return _within(text, 1, 0xFFFF, "a UDP port")


def count(text: str) -> int:
    """How many, at least one."""
    return _within(text, 1, 2**63 - 1, "a count")


def size(text: str) -> int:
    """Bytes, no more than UDP over IPv4 has."""
    return _within(text, 0, 65507, "a size in bytes")


def positive(text: str) -> float:
    """A number above 0, such as a rate or a time."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def ago(text: str) -> timedelta:
    """How far to go back, as :func:`duration` has it."""
    back = timedelta(seconds=duration(text))
    if not back:
        raise argparse.ArgumentTypeError(f"{text!r} is no time to go back")
    return back


def duration(text: str) -> float:
    """A time in seconds, or with a unit: 90, 90s, 15m, 2h, 1d."""
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}.get(text[-1:])
    try:
        value = float(text if unit is None else text[:-1]) * (unit or 1.0)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 0, 90, 90s, 15m, 2h, 1d")
    return value


def _within(text: str, low: int, high: int, what: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}, {low}-{high}")
    return value
