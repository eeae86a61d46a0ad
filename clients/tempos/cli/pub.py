"""``tempos pub``: publish one event, one event many times, or each line of standard input."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tempos.cli import options as opt
from tempos.cli.completion import with_topics
from tempos.cli.progress import Progress
from tempos.errors import BodyError, Unconfirmed

if TYPE_CHECKING:
    from tempos.blocking import Publisher
    from tempos.cli.extensions import Subparsers

#: Bytes that are kept until the broker confirms them, and events after which that is waited for.
WINDOW, AT_A_TIME = 16 << 20, 8192

_EXAMPLES = """\
examples:
  tempos pub -t temperature -m 21.5
  tempos pub -b 10.0.1.1 -t temperature --json -m '{"c": 21.5}'
  tail -f readings.log | tempos pub -t temperature -l
  tempos pub -t load --size 32 --count 100000 --rate 20000
  seq 1000000 | tempos pub -t numbers -l --linger 0.005
  seq 1000000 | tempos pub -t numbers -l --confirm

A body travels as the bytes given; with --json it is read as JSON and travels as msgpack.
"""


def register(subparsers: Subparsers) -> None:
    """Add ``tempos pub``."""
    parser = subparsers.add_parser(
        "pub",
        help="publish events",
        description="Publish events to a topic.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    opt.add_publisher(parser)
    with_topics(parser.add_argument("-t", "--topic", metavar="NAME", required=True, help="the topic"))
    body = parser.add_mutually_exclusive_group()
    body.add_argument("-m", "--message", metavar="BODY", help="the body of the event")
    body.add_argument("-l", "--lines", action="store_true", help="one event per line of standard input")
    body.add_argument("--size", metavar="BYTES", type=opt.size, help="a body of so many bytes, for load")
    parser.add_argument("--json", action="store_true", help="bodies are JSON; without -m they are lines")
    parser.add_argument(
        "--count", metavar="N", type=opt.count, help="so many events (default: 1, or all lines)"
    )
    parser.add_argument("--rate", metavar="N", type=opt.positive, help="so many events per second")
    parser.add_argument(
        "--linger", metavar="S", type=opt.positive, default=0.0, help="wait up to S seconds to fill datagrams"
    )
    parser.add_argument(
        "--max-datagram",
        metavar="BYTES",
        type=opt.count,
        help="datagrams and batches of at most so many bytes, headers included, as an MTU counts "
        "(default: what the way to the broker and all members take)",
    )
    parser.add_argument(
        "--confirm",
        metavar="S",
        type=opt.positive,
        nargs="?",
        const=10.0,
        help="send again what the broker finds lacking, and end when all is known to be there, in the "
        "topic's journal, or with an error after S seconds (default: 10)",
    )
    parser.set_defaults(run=run, fail=parser.error)


def run(options: argparse.Namespace) -> int:
    """Publish; 1 if the broker's host sent events back, or does not confirm them."""
    from tempos.blocking import Publisher

    if options.message is None and options.size is None and not options.lines and not options.json:
        options.fail("what to publish? give -m BODY, -l, --json or --size BYTES")
    if options.json and options.size is not None:
        options.fail("--size makes bodies that are not JSON")
    with Publisher(
        options.broker.host,
        data_port=opt.data_port(options),
        control_port=opt.control_port(options),
        linger=options.linger,
        auth=opt.key(options),
        keys=opt.topic_keys(options),
        wait=options.wait,
        max_datagram=options.max_datagram,
        window=WINDOW if options.confirm else None,
    ) as publisher:
        progress = Progress("events published", _total(options))
        done = missing = 0
        whys: dict[tuple[str, str], int] = {}
        try:
            for body in _paced(_bodies(options), options.rate):
                publisher.publish(options.topic, body)
                done += 1
                if not done & 0x3F or options.rate:
                    progress.update(done)
                if options.confirm and not done % AT_A_TIME:
                    missing += _confirm(publisher, options.confirm, whys)
            publisher.flush()
            if options.confirm:
                missing += _confirm(publisher, options.confirm, whys)
        finally:
            progress.finish(done)
        refused = publisher.stats.refused
    for (topic, why), events in whys.items():
        print(f"tempos pub: {events} of {done} events of topic {topic} not confirmed: {why}", file=sys.stderr)
    if refused:
        print(
            f"tempos pub: {options.broker.host} refused {refused} of {done} events: nobody listens on UDP "
            f"port {opt.data_port(options)} there",
            file=sys.stderr,
        )
        return 1
    return 1 if missing else 0


def _confirm(publisher: Publisher, patience: float, whys: dict[tuple[str, str], int]) -> int:
    """Wait until all is confirmed; how many events are not, for which ``whys`` says why."""
    try:
        publisher.confirmed(patience)
    except Unconfirmed as error:
        for key, events in error.whys.items():
            whys[key] = whys.get(key, 0) + events
        return error.missing
    return 0


def _total(options: argparse.Namespace) -> int | None:
    if options.message is None and options.size is None:
        return None
    return options.count or 1


def _bodies(options: argparse.Namespace) -> Iterator[object]:
    if options.message is not None or options.size is not None:
        text = (
            options.message.encode(errors="surrogateescape") if options.size is None else b"x" * options.size
        )
        body = json_body(text, "the body") if options.json else text
        return itertools.repeat(body, options.count or 1)
    return itertools.islice(_lines(options.json), options.count)


def _lines(as_json: bool) -> Iterator[object]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        text = line.rstrip(b"\r\n")
        if not as_json:
            yield text
        elif text.strip():
            yield json_body(text, f"line {number}")


def json_body(text: bytes, where: str) -> object:
    """A body that is given as JSON; raises :class:`BodyError` that says ``where`` it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BodyError(f"{where} is not JSON: {error}") from error


def _paced(bodies: Iterator[object], rate: float | None) -> Iterator[object]:
    """Hand bodies out at ``rate`` per second, by a schedule: a late one does not delay those after it."""
    if rate is None:
        yield from bodies
        return
    started = time.monotonic()
    for number, body in enumerate(bodies):
        ahead = started + number / rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        yield body
