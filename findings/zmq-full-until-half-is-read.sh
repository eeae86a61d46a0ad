#!/bin/sh
# A ZeroMQ queue that has been full takes nothing until half of it has been read, and PUB drops all that meanwhile.
#
# Versions    pyzmq 27.3.0 with its libzmq 4.3.5; between sockets of one process, so that nothing else has buffers.
# Expected    The high water mark is "a hard limit on the maximum number of outstanding messages" (ZMQ_SNDHWM): with one
#             message less than that outstanding, the next one goes in. A subscriber that has fallen behind once, and
#             then takes as many as come, loses no more.
# What it does  From the moment at which it is full the queue is closed to the sender until the reader has taken about half of
#             it and said so. PUSH is told EAGAIN, or waits; PUB drops without a word, also what there is plenty of
#             room for: a subscriber that takes one for each that is published misses the next hundred in a row.
# Source      libzmq 4.3.5, src/pipe.cpp: compute_lwm() is (hwm + 1) / 2; pipe_t::read() tells the writer each lwm messages.
#             zmq_setsockopt(3), ZMQ_SNDHWM, knows no second mark.
# For us      Of peers that are measured beside tempos a drop under overload comes in runs of half a queue. A tempos queue has
#             room for one more as soon as one was taken, and counts what it drops.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/v" && "$folder/v/bin/pip" install -q --disable-pip-version-check pyzmq==27.3.0 ||
    { echo "pyzmq 27.3.0 cannot be had" >&2; exit 2; }

cat > "$folder/run.py" <<'SOURCE'
import sys
import time

import zmq

# What a reader says a writer hears at once only if it has not looked for some million turns of the processor.
MARK, EXTRA, PAUSE = 100, 1000, 0.003
context = zmq.Context()


def pair(kind, other):
    """Both ends of a queue of twice MARK: what one may send and the other may receive."""
    sends, reads = context.socket(kind), context.socket(other)
    sends.sndhwm = reads.rcvhwm = MARK
    if other == zmq.SUB:
        reads.subscribe(b"")
    sends.bind(f"inproc://{kind}")
    reads.connect(f"inproc://{kind}")
    return sends, reads


def goes(sends):
    try:
        sends.send(b"x", zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True


sends, reads = pair(zmq.PUSH, zmq.PULL)
room = 0
while goes(sends):
    room += 1
taken = 1
reads.recv()
while not (time.sleep(PAUSE) or goes(sends)):
    reads.recv()
    taken += 1
print(f"libzmq {zmq.zmq_version()}; PUSH: {room} are taken until it is full; the next one, once {taken} have been read")

sends, reads = pair(zmq.PUB, zmq.SUB)
for number in range(EXTRA):
    sends.send(b"%d" % number)
got = []
for number in range(EXTRA, EXTRA + MARK - 1):
    got.append(int(reads.recv()))
    time.sleep(PAUSE)
    sends.send(b"%d" % number)
while reads.poll(200):
    got.append(int(reads.recv()))
late = sum(each >= EXTRA for each in got)
print(f"PUB: {EXTRA} at once, of which {len(got) - late} arrive; then {MARK - 1} more, each after one was read: {late} arrive")
context.destroy(linger=0)
sys.exit(not (room == 2 * MARK and taken == MARK and (len(got) - late, late) == (room, 0)))
SOURCE
timeout 60 "$folder/v/bin/python" "$folder/run.py"
