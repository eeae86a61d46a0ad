#!/bin/sh
# A zenoh query to all queryables gives the answer of one of them, and of an answer in five parts the last part.
#
# Versions    eclipse-zenoh 1.10.2 (Python), two sessions over loopback.
# Expected    get(target=QueryTarget.ALL) asks every queryable that matches, and a query is the way to ask several services
#             at once: each reply of each of them is handed out. A queryable may call reply() as often as it likes, so a
#             log or a history is an answer of many replies.
# What it does  Of all replies with the same key one is handed out, whoever sent it: without timestamps, which sessions do
#             not give by default, the one that came last. The others are gone without an error and without a count.
#             consolidation=NONE hands out all.
# Source      zenoh 1.10.2: ConsolidationMode.AUTO, which is the default, stands for LATEST unless the selector asks for a
#             range of time; its documentation speaks of "the highest timestamp for their key".
# For us      Zenoh is measured beside tempos by put and subscribers alone, which this does not touch. Who bridges a tempos
#             request to zenoh asks with consolidation=NONE, or has each service answer under a key of its own.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/v" && "$folder/v/bin/pip" install -q --disable-pip-version-check eclipse-zenoh==1.10.2 ||
    { echo "eclipse-zenoh 1.10.2 cannot be had" >&2; exit 2; }

cat > "$folder/run.py" <<'SOURCE'
import socket
import sys
import time

import zenoh

KEY, PARTS, LIMIT = "plant/press", 5, 20
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    AT = f"tcp/127.0.0.1:{free.getsockname()[1]}"


def session(mode, way):
    config = zenoh.Config()
    for key, value in (("mode", f'"{mode}"'), ("scouting/multicast/enabled", "false"), (f"{way}/endpoints", f'["{AT}"]')):
        config.insert_json5(key, value)
    return zenoh.open(config)


def answers(asking, key, **options):
    return sorted(each.ok.payload.to_string() for each in asking.get(key, target=zenoh.QueryTarget.ALL, **options))


def in_parts(query):
    for number in range(PARTS):
        query.reply(query.selector.key_expr, f"part {number}")


ALL = {"consolidation": zenoh.ConsolidationMode.NONE}
with session("peer", "listen") as one, session("client", "connect") as other:
    queryables = [one.declare_queryable(KEY, lambda query: query.reply(KEY, "one")),
                  other.declare_queryable(KEY, lambda query: query.reply(KEY, "other")),
                  one.declare_queryable("plant/log", in_parts)]
    end = time.monotonic() + LIMIT
    while len(answers(other, KEY, **ALL)) < 2 or len(answers(other, "plant/log", **ALL)) < PARTS:
        if time.monotonic() > end:
            print("the two sessions do not find each other", file=sys.stderr)
            sys.exit(2)
        time.sleep(0.1)
    seen = []
    for what, key in (("two services, asked at once", KEY), ("one service, which answers in five parts", "plant/log")):
        usual, whole = answers(other, key), answers(other, key, **ALL)
        seen.append((len(usual), len(whole)))
        print(f"{what}: {usual}; with consolidation=NONE: {whole}")
sys.exit(seen != [(1, 2), (1, PARTS)])
SOURCE
timeout 90 "$folder/v/bin/python" "$folder/run.py"
