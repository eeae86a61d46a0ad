"""Answers every datagram: `python -m tempos_bench.programs.echo`. Prints `ready`; ends by a signal."""

from __future__ import annotations

import argparse

from tempos_bench.compiled import traffic


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.echo", description=__doc__)
    parser.add_argument("--bind", type=traffic.Endpoint.parse, required=True)
    parser.add_argument("--reply-to", type=traffic.Endpoint.parse, help="instead of the sender")
    parser.add_argument("--topic", type=int, help="first byte of the answer")
    args = parser.parse_args()
    with traffic.open_socket(bind=args.bind) as sock:
        print("ready", flush=True)
        traffic.echo(sock, args.reply_to, args.topic)


if __name__ == "__main__":
    main()
