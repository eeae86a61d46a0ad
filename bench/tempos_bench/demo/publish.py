"""The demo's publisher, made with the client library: `python -m tempos_bench.demo.publish`.

Publishes `--paced` events at `--rate`, for their latency, then `--burst` as fast as it can, for the
rate. The body says which: [phase, number]. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

from tempos import DATA_PORT, Publisher, Topic

#: Phases of the demo, as they stand in the body of an event.
PACED, BURST = "paced", "burst"


async def publish(args: argparse.Namespace) -> dict[str, int]:
    """Publish both phases; returns what the publisher counted."""
    topics = [Topic(args.topic_id, args.topic)] if args.topic_id else None
    async with Publisher(args.to, data_port=args.port, topics=topics) as publisher:
        began = time.perf_counter()
        for number in range(args.paced):
            ahead = began + number / args.rate - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
            await publisher.publish(args.topic, [PACED, number])
        for number in range(args.burst):
            await publisher.publish(args.topic, [BURST, number])
        return {"sent": publisher.stats.events, "refused": publisher.stats.refused}


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.demo.publish", description=__doc__)
    parser.add_argument("--to", required=True, help="the broker, or a receiver itself")
    parser.add_argument("--port", type=int, default=DATA_PORT)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--topic-id", type=int, help="known beforehand: no broker is asked")
    parser.add_argument("--paced", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="events/s of the paced phase")
    parser.add_argument("--burst", type=int, required=True)
    print(json.dumps(asyncio.run(publish(parser.parse_args()))))


if __name__ == "__main__":
    main()
