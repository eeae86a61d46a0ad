"""The demo's subscriber, made with the client library: `python -m tempos_bench.demo.subscribe`.

Prints `ready` when it is a member, then one JSON object: what arrived, one-way latencies of the paced
events and the rate of the burst (see `tempos_bench.demo.publish`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from typing import Any

from tempos import Event, Subscriber, Topic
from tempos.subscriber import RECEIVE_BUFFER
from tempos_bench.demo.publish import BURST, PACED
from tempos_bench.measure.stats import percentile
from tempos_bench.nodes.patience import patience

#: Bytes of socket buffer that an event may take: a page, where the fast path has redirected it.
_ROOM = 4096


async def subscribe(args: argparse.Namespace) -> None:
    """Receive until `--expect` events came, or none for `--idle` seconds; print what came of it."""
    # On a busy machine all may come before this is run again: that is no loss of what the demo shows.
    room = max(RECEIVE_BUFFER, args.expect * _ROOM)
    if args.topic_id:
        topic = Topic(args.topic_id, args.topic)
        subscriber = Subscriber.listen(args.address, args.port, topics=[topic], receive_buffer=room)
    else:
        subscriber = Subscriber(
            args.address, args.topic, group=args.group, port=args.port, receive_buffer=room
        )
    events: list[Event] = []
    async with subscriber:
        print("ready", flush=True)
        limit = patience(args.first)
        while len(events) < args.expect and await subscriber.wait(limit):
            limit = patience(args.idle)
            while (event := subscriber.poll()) is not None:
                events.append(event)
        stats = subscriber.stats
        found = summarize(events) | {"missed": stats.missed, "overruns": stats.overruns}
        print(json.dumps(found), flush=True)
        if args.stay:
            await _until_sigterm()


async def _until_sigterm() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


def summarize(events: list[Event]) -> dict[str, Any]:
    """Counts, latencies in microseconds, and events/s from the burst's first sending to its last arrival."""
    phases: dict[str, list[Event]] = {PACED: [], BURST: []}
    for event in events:
        phases[event.unpack()[0]].append(event)
    latencies = [event.latency * 1e6 for event in phases[PACED] if event.latency is not None]
    burst = phases[BURST]
    took = (burst[-1].received_ns - (burst[0].sent_ns or 0)) / 1e9 if burst else 0
    return {
        "received": len(events),
        "distinct": len({(event.publisher, event.sequence) for event in events}),
        "events_per_s": len(burst) / took if took > 0 else None,
        "latency_us": {p: percentile(latencies, p) for p in (50, 90, 99)} if latencies else None,
    }


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.demo.subscribe", description=__doc__)
    parser.add_argument("--address", required=True, help="the broker; with --topic-id the own address")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--topic-id", type=int, help="known beforehand: no broker is asked")
    parser.add_argument("--group")
    parser.add_argument("--expect", type=int, required=True)
    parser.add_argument("--first", type=float, default=20, help="seconds to wait for the first event")
    parser.add_argument("--idle", type=float, default=10, help="stop after so many seconds without one")
    parser.add_argument("--stay", action="store_true", help="remain a member afterwards, until SIGTERM")
    asyncio.run(subscribe(parser.parse_args()))


if __name__ == "__main__":
    main()
