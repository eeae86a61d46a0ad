"""``tempos request``: ask, print the answer."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from tempos.cli import bodies
from tempos.cli import options as opt
from tempos.cli.completion import with_topics
from tempos.cli.pub import json_body

if TYPE_CHECKING:
    from tempos.cli.extensions import Subparsers

_EXAMPLES = """\
examples:
  tempos request -t time
  tempos request -b 10.0.1.1 -t square --json -m 12 --timeout 2
  tempos request -t square --json -m 12 --output json | jq .seconds

The request goes to one member of every group of the topic; the first answer is printed, msgpack as JSON. A
body travels as the bytes given; with --json it is read as JSON and travels as msgpack. Nothing is repeated.
Exit codes: 0 answered; 1 no answer in time, no member, an error in its place, or a topic that cannot be
asked.
"""


def register(subparsers: Subparsers) -> None:
    """Add ``tempos request``."""
    parser = subparsers.add_parser(
        "request",
        help="publish a request and print the answer",
        description="Publish a request to a topic and print the first answer.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    opt.add_publisher(parser)
    with_topics(parser.add_argument("-t", "--topic", metavar="NAME", required=True, help="the topic"))
    parser.add_argument("-m", "--message", metavar="BODY", default="", help="the body (default: none)")
    parser.add_argument("--json", action="store_true", help="the body is JSON")
    parser.add_argument(
        "--timeout", metavar="S", type=opt.positive, default=5.0, help="wait so long (default: %(default)g s)"
    )
    parser.add_argument(
        "--output", choices=("body", "json"), default="body", help="print only the body, or an object"
    )
    parser.set_defaults(run=run, fail=parser.error)


def run(options: argparse.Namespace) -> int:
    """Ask and print; what goes wrong is raised."""
    from tempos.blocking import Publisher

    if options.json and not options.message:
        options.fail("--json needs a body: -m BODY")
    text = options.message.encode(errors="surrogateescape")
    body = json_body(text, "the body") if options.json else text
    with Publisher(
        options.broker.host,
        data_port=opt.data_port(options),
        control_port=opt.control_port(options),
        auth=opt.key(options),
        keys=opt.topic_keys(options),
        wait=options.wait,
    ) as publisher:
        reply = publisher.request(options.topic, body, options.timeout)
    if options.output == "body":
        sys.stdout.write(bodies.show(reply.body) + "\n")
        return 0
    encoding, shown = bodies.describe(reply.body)
    row = {
        "topic": reply.topic,
        "encoding": encoding,
        "body": shown,
        "sent_ns": reply.sent_ns,
        "received_ns": reply.received_ns,
        "seconds": reply.seconds,
    }
    sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
    return 0
