"""``tempos sub``: print events as they come."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from tempos.cli import bodies
from tempos.cli import options as opt
from tempos.cli.completion import with_topics
from tempos.cli.progress import Progress
from tempos.cli.words import between, counted
from tempos.names import is_filter

#: Publishers of which `--stats` tells at most.
PUBLISHERS_SHOWN = 10

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tempos import Event, PublisherAccount, SubscriberStats
    from tempos.blocking import Subscriber
    from tempos.cli.extensions import Subparsers

_EXAMPLES = """\
examples:
  tempos sub -t temperature                     print bodies, until Ctrl-C
  tempos sub -b 10.0.1.1 -t temperature -g workers
                                                share the events with the other members of a group
  tempos sub -t 'plant/+/press/#'               every topic that matches, also those made later
  tempos sub -t temperature --last 10           the last ten first, which the journal has, and then what comes
  tempos sub -t temperature --since 10s         the same with those of the last ten seconds
  tempos sub -t temperature --json | jq .latency_s
  tempos sub -t temperature --count 1 --timeout 5
                                                exit code 1 if no event comes for 5 seconds
  tempos sub -t temperature --json --stats 2>>losses.json
                                                each event as JSON, and at the end the account of all

Bodies are printed as text, msgpack as JSON, anything else in hex. With several topics, or a filter, each line
begins with the topic's name. Filters are MQTT's: + is any one level, # in the end any number of them. With
--json each line is an object: topic, topic_id, encoding, body, publisher, sequence, delivery_sequence, epoch,
sent_ns, received_ns, latency_s, missed. The sum of missed is what is missing: an event that comes late says
-1. An event out of the journal (--last, --since, retained topics) says "replayed": true, one that a member
which is gone was sent before "redelivered": true; these are in no other count. The account of --stats is told
at the very end, when all that was on its way has come or is lost, with what each publisher lost on the way to
the broker; with --json it is an object, too. After --count events it leaves; what had come beyond them is
told, and is dropped in the broker's ledger.
"""


def register(subparsers: Subparsers) -> None:
    """Add ``tempos sub``."""
    parser = subparsers.add_parser(
        "sub",
        help="print events as they come",
        description="Subscribe to topics and print their events.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    opt.add_client(parser)
    with_topics(parser.add_argument(
        "-t", "--topic", metavar="NAME", action="append", required=True,
        help="a topic or a filter; may be repeated",
    ))  # fmt: skip
    parser.add_argument("-g", "--group", metavar="GROUP", help="share the events with this group's members")
    parser.add_argument("--port", type=opt.port, default=0, help="UDP port to receive on (default: any)")
    before = parser.add_mutually_exclusive_group()
    before.add_argument("--last", metavar="N", type=opt.count, help="first the last N, out of the journal")
    before.add_argument("--since", metavar="T", type=opt.ago, help="first what came since: 10s, 5m, 2h")
    parser.add_argument("--json", action="store_true", help="one JSON object per event")
    parser.add_argument("--count", metavar="N", type=opt.count, help="print so many events and leave")
    parser.add_argument(
        "--timeout", metavar="S", type=opt.positive, help="end when no event comes for S seconds"
    )
    parser.add_argument("--stats", action="store_true", help="tell counts and losses on standard error")
    parser.add_argument(
        "--drop-duplicates", action="store_true", help="do not print what a network has doubled (not for raw)"
    )
    parser.add_argument(
        "--repair",
        metavar="S",
        type=opt.positive,
        help="ask for what is missing for so many seconds (default: 2)",
    )
    parser.add_argument("--no-repair", action="store_true", help="do not ask for what is missing")
    parser.add_argument(
        "--ordered", action="store_true", help="hold back what follows a gap until it is filled or given up"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="do not tell when the subscription stands")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print events; 1 if ``--count`` was not reached."""
    from tempos.blocking import Subscriber
    from tempos.repair.repairer import PATIENCE

    subscriber = Subscriber(
        options.broker.host,
        *options.topic,
        group=options.group,
        control_port=opt.control_port(options),
        port=options.port,
        duplicates="drop" if options.drop_duplicates else "deliver",
        auth=opt.key(options),
        keys=opt.topic_keys(options),
        wait=options.wait,
        start=options.last or options.since,
        repair=0 if options.no_repair else options.repair or PATIENCE,
        ordered=options.ordered,
    )
    progress = Progress("events received", options.count) if options.stats else None
    opened = False
    try:
        with subscriber:
            opened = True
            if not options.quiet:
                topics = ", ".join(options.topic)
                group = f" in group {options.group}" if options.group else ""
                now = f" ({counted(len(subscriber.topics), 'topic')} now)" if _is_filtered(options) else ""
                print(
                    f"subscribed to {topics}{now}{group} as {subscriber.member}", file=sys.stderr, flush=True
                )
            done = _print_events(subscriber, options, progress)
    finally:
        # Only now, when it has left, is it known what was late and what is lost.
        if options.stats and opened:
            stats, publishers = subscriber.stats, subscriber.publishers
            if options.json:
                print(_stats_json(stats, publishers), file=sys.stderr)
            else:
                print(_stats_line(stats), *_publisher_lines(publishers), sep="\n", file=sys.stderr)
    left = subscriber.stats.discarded_events
    if left:
        print(
            f"tempos sub: {left:,} more events had come and were not printed; the broker's ledger has them "
            "as dropped",
            file=sys.stderr,
        )
    if options.count is not None and done < options.count:
        print(
            f"tempos sub: {done} of {options.count} events, then none for {options.timeout:g} s",
            file=sys.stderr,
        )
        return 1
    return 0


def _print_events(subscriber: Subscriber, options: argparse.Namespace, progress: Progress | None) -> int:
    many = len(options.topic) > 1 or _is_filtered(options)
    show = _json_line if options.json else _line_with_topic if many else _line
    out = sys.stdout
    done = 0
    with contextlib.suppress(TimeoutError):
        while options.count is None or done < options.count:
            event = subscriber.poll()
            if event is None:
                # What is printed is seen before anything is waited for.
                out.flush()
                event = subscriber.next(options.timeout)
            out.write(show(event))
            done += 1
            if progress is not None:
                progress.update(done)
    out.flush()
    if progress is not None:
        progress.finish(done)
    return done


def _is_filtered(options: argparse.Namespace) -> bool:
    return any(map(is_filter, options.topic))


def _line(event: Event) -> str:
    return bodies.show(event.body) + "\n"


def _line_with_topic(event: Event) -> str:
    return f"{event.topic} {bodies.show(event.body)}\n"


def _json_line(event: Event) -> str:
    encoding, body = bodies.describe(event.body)
    row = {
        "topic": event.topic,
        "topic_id": event.topic_id,
        "encoding": encoding,
        "body": body,
        "publisher": event.publisher,
        "sequence": event.sequence,
        "delivery_sequence": event.delivery_sequence,
        "epoch": event.epoch,
        "sent_ns": event.sent_ns,
        "received_ns": event.received_ns,
        "latency_s": event.latency,
        "missed": event.missed,
        **({"replayed": True} if event.is_replayed else {}),
        **({"redelivered": True} if event.is_redelivered else {}),
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def _stats_json(stats: SubscriberStats, publishers: Sequence[PublisherAccount]) -> str:
    rows = [{**dataclasses.asdict(each), "lost_before": each.lost_before} for each in publishers]
    return json.dumps({"stats": dataclasses.asdict(stats), "publishers": rows})


def _publisher_lines(publishers: Sequence[PublisherAccount]) -> Iterator[str]:
    """Those of which something did not get as far as the broker, and what cannot be told."""
    shared = [each for each in publishers if each.at_most is None]
    lossy = [each for each in publishers if each.at_most or each.at_least]
    lossy.sort(key=lambda each: -(each.at_most or each.at_least))
    for each in lossy[:PUBLISHERS_SHOWN]:
        yield (
            f"publisher {each.publisher} on {each.topic}: {each.events:,} events came, "
            f"{between(each.at_least, each.at_most)} never reached the broker's tickets"
        )
    if len(lossy) > PUBLISHERS_SHOWN:
        yield f"and of {len(lossy) - PUBLISHERS_SHOWN:,} other publishers some, too"
    if shared:
        yield (
            f"what {len(shared):,} publishers lost before the broker cannot be told from a share of their "
            "events: tempos ledger adds up the group"
        )


def _stats_line(stats: SubscriberStats) -> str:
    counts = {
        "missed": stats.missed,
        "repaired": stats.repaired,
        "given up": stats.given_up,
        **({"replayed": stats.replayed} if stats.replayed else {}),
        **({"replay_gone": stats.replay_gone} if stats.replay_gone else {}),
        **({"redelivered": stats.redelivered} if stats.redelivered else {}),
        "late": stats.late,
        "duplicates": stats.duplicates,
        "unstamped": stats.unstamped,
        "dropped (queue full)": stats.queue_full,
        "dropped (not printed)": stats.discarded,
        "overruns of the socket buffer": stats.overruns,
        **{f"malformed ({reason})": count for reason, count in stats.malformed.items()},
    }
    told = [f"{count:,} {name}" for name, count in counts.items() if count or name == "missed"]
    return (
        f"{stats.events:,} events in {stats.datagrams:,} datagrams, {stats.bytes:,} bytes; {', '.join(told)}"
    )
