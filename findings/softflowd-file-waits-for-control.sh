#!/bin/sh
# softflowd that reads a capture file waits for somebody to connect to its control socket before it reads anything.
#
# Versions    softflowd 1.1.0 (Debian 12: 1.1.0-1+b1).
# Expected    `softflowd -r FILE -n HOST:PORT` reads the file, exports its flows and ends.
# What it does  It stands in accept() on the control socket, for ever; with `-c none` it has no such socket, and does
#             what was expected.
# For us      The test of flow collectors starts it with `-c none`.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

PATH="$PATH:/usr/sbin"
command -v softflowd >/dev/null || { echo "softflowd is not installed"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# A capture of one Ethernet frame: UDP from 192.0.2.1 to 192.0.2.2.
python3 - "$folder/one.pcap" <<'SOURCE'
import struct
import sys

frame = bytes.fromhex(
    "020000000002" "020000000001" "0800"
    "4500001c000000004011f6cfc0000201c0000202" "2710003500080000"
)
with open(sys.argv[1], "wb") as file:
    file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
    file.write(struct.pack("<IIII", 1_700_000_000, 0, len(frame), len(frame)) + frame)
SOURCE

run() {
	code=0
	timeout 5 softflowd -r "$folder/one.pcap" -n 127.0.0.1:9 -p "$folder/pid" -c "$1" >/dev/null 2>&1 || code=$?
	echo "-c $1: exit code $code$([ $code != 124 ] || echo ' (ended after 5 s)')"
}

run "$folder/control"
[ $code = 124 ] || exit 1
run none
[ $code = 0 ] || exit 1
