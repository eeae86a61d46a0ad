"""``tempos tap``: what has come for a topic lately, out of its journal, as lines, JSON or a capture."""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tempos import wire
from tempos._abi import DATA_PORT, ENVELOPE_LEN
from tempos.cli import bodies
from tempos.cli.answer import understood
from tempos.cli.api import Api, add_api
from tempos.cli.completion import with_topics
from tempos.cli.options import positive
from tempos.errors import WireError
from tempos.model import Framing

if TYPE_CHECKING:
    from tempos.cli.extensions import Subparsers

_EXAMPLES = """\
examples:
  tempos tap temperature                     all that its journal has
  tempos tap temperature --last 10 --follow  the last ten, and then what comes
  tempos tap temperature --json | jq .body
  tempos tap temperature --pcap > events.pcap

Reads the journal that the broker keeps of a topic (`journal = N`): nothing is joined, and no member
gets anything else for it. Through the control API, so with its token, if it has one. Bodies that are
encrypted stay so. A capture holds a datagram for each event, as the publisher sent it; addresses are not
kept, so they are 0. Of events that were overwritten before they were read, standard error says how many.
"""
#: LINKTYPE_RAW: packets begin with their IP header.
_LINK = 101
_PCAP = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_IP = struct.Struct("!BBHHHBBHII")
_UDP = struct.Struct("!HHHH")
_UDP_NUMBER = 17


def register(subparsers: Subparsers) -> None:
    """Add ``tempos tap``."""
    parser = subparsers.add_parser(
        "tap",
        help="print the latest events of a topic that keeps a journal",
        description="Print the latest events of a topic that keeps a journal, without being a member.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    with_topics(parser.add_argument("topic", metavar="TOPIC"))
    parser.add_argument("--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    parser.add_argument("--last", metavar="N", type=int, help="begin with the last N (default: all)")
    parser.add_argument(
        "--interval", metavar="S", type=positive, default=0.1,
        help="seconds between two looks where nothing has come (default: %(default)g)",
    )  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print an object for each event")
    form.add_argument("--pcap", action="store_true", help="write a capture, such as Wireshark reads")
    add_api(parser)
    parser.set_defaults(run=run, fail=parser.error)


def run(options: argparse.Namespace) -> int:
    """Print what there is, and with ``--follow`` what comes."""
    if options.last is not None and options.last < 0:
        options.fail("--last: not less than 0")
    if options.pcap:
        if sys.stdout.isatty():
            options.fail("--pcap writes bytes: let them go into a file or a program")
        sys.stdout.buffer.write(_PCAP.pack(0xA1B2C3D4, 2, 4, 0, 0, 65535, _LINK))
    had = False
    for page in _pages(options):
        with understood(options.api):
            had = had or bool(page["events"])
            if page["missed"]:
                print(
                    f"tempos tap: {page['missed']:,} events in between are not there any more",
                    file=sys.stderr,
                )
            for event in page["events"]:
                _print(event, page, options)
        sys.stdout.flush()
    if not had and options.last != 0:
        print(
            f"tempos tap: the journal of {options.topic} has no event: what comes while a topic has no "
            "member is in none",
            file=sys.stderr,
        )
    return 0


def _pages(options: argparse.Namespace) -> Iterator[Mapping[str, Any]]:
    api = Api.of(options)
    after, last = 0, "" if options.last is None else f"&last={options.last}"
    while True:
        page = api.get(f"/v1/topics/{quote(options.topic, safe='')}/journal?after={after}{last}")
        yield page
        with understood(options.api):
            after, more = page["next"], page["more"]
            # From here on all of them.
            last = ""
        if not more and not options.follow:
            return
        if not more:
            time.sleep(options.interval)


def _print(event: Mapping[str, Any], page: Mapping[str, Any], options: argparse.Namespace) -> None:
    payload = payload_of(event)
    if options.pcap:
        sys.stdout.buffer.write(_packet(event["time"], payload or b"", event["length"]))
        return
    row = row_of(event, page, payload)
    if options.json:
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        return
    at = time.strftime("%H:%M:%S", time.localtime(event["time"])) + f"{event['time'] % 1:.3f}"[1:]
    who = f"{row['publisher']:08x} {row['sequence']}" if "publisher" in row else ""
    what = row.get("bodies", [row.get("body")])
    for each in what:
        shown = each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)
        text = f"({event['length']} bytes, which is more than is kept)" if payload is None else shown
        sys.stdout.write(f"{at}  {event['epoch']}.{event['tickets'][0]}  {who}  {text}\n")


def payload_of(event: Mapping[str, Any]) -> bytes | None:
    """The datagram of an event as a page has it, None where it was not kept; raises :class:`ValueError`."""
    try:
        return None if event["payload"] is None else base64.b64decode(event["payload"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from error


def row_of(event: Mapping[str, Any], page: Mapping[str, Any], payload: bytes | None) -> dict[str, Any]:
    """An event of a page, as JSON values."""
    return {
        "topic": page["topic"],
        "position": event["position"],
        "epoch": event["epoch"],
        "tickets": event["tickets"],
        "time": event["time"],
        "length": event["length"],
        **_content(payload, page["framing"]),
    }


def _content(payload: bytes | None, framing: str) -> dict[str, Any]:
    """What is in a datagram, as JSON values."""
    row: dict[str, Any]
    if payload is None:
        return {"kept": False}
    if framing == "raw":
        header = wire.header_len(wire.topic_in(payload), Framing.RAW)
        encoding, body = bodies.describe(payload[header:])
        return {"kept": True, "encoding": encoding, "body": body}
    try:
        event = wire.decode_event(payload)
        numbers = {"publisher": event.publisher, "sequence": event.sequence, "sent_ns": event.sent_ns}
        row = {"kept": True, **numbers}
        body = payload[wire.body_at(payload) :]
        if event.is_batch:
            described = [bodies.describe(each) for each in wire.split_batch(body)]
            encodings = [encoding for encoding, _ in described]
            return {**row, "encodings": encodings, "bodies": [shown for _, shown in described]}
    except WireError:
        return {"kept": True, "encoding": "hex", "body": payload.hex()}
    if wire.is_request(payload):
        row["request"], body = True, body[ENVELOPE_LEN:]
    encoding, shown = bodies.describe(body)
    return {**row, "encoding": encoding, "body": shown}


def _packet(at: float, payload: bytes, length: int) -> bytes:
    """A record of a capture: IPv4 and UDP with the lengths and the port that it had, and no addresses."""
    size = _IP.size + _UDP.size
    held = _IP.pack(0x45, 0, size + length, 0, 0, 64, _UDP_NUMBER, 0, 0, 0)
    held += _UDP.pack(DATA_PORT, DATA_PORT, _UDP.size + length, 0) + payload
    return _RECORD.pack(int(at), int(at % 1 * 1e6), len(held), size + length) + held
