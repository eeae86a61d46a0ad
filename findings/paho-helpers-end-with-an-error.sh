#!/bin/sh
# paho-mqtt's helper to publish once logs an error for each message that was published all right.
#
# Versions    paho-mqtt 2.2.0 (2.1.0 does not); mosquitto 2.0.11 (Debian 12: 2.0.11-1.2+deb12u2, or the one that is
#             installed) as the server.
# Expected    publish.single() with qos=1 connects, publishes, waits for the acknowledgement, disconnects and returns;
#             what goes well says nothing.
# What it does  It does all that, and then logs "Client is not connected. Socket: None). Last known Connection State:
#             MQTT_CS_DISCONNECTED" as an error: its loop looks once more at the connection that it has closed itself.
#             The helper turns the client's logger on, so without any logging set up that line is on standard error of
#             the program, where cron mails it and supervisors take it for a failure.
# Source      paho-mqtt 2.2.0, paho/mqtt/client.py: _loop, which tells of a socket that is None; publish.py: multiple,
#             which calls enable_logger() and loop_forever().
# For us      The manual's way from MQTT publishes with a client of its own; nothing of tempos uses the helper.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill "$server" 2>/dev/null || :; wait "$server" 2>/dev/null || :; fi; rm -rf "$folder"' EXIT
mosquitto=$(command -v mosquitto || echo /usr/sbin/mosquitto)
[ -x "$mosquitto" ] || { echo "mosquitto is not installed" >&2; exit 2; }
for version in 2.1.0 2.2.0; do
    python3 -m venv "$folder/$version" &&
        "$folder/$version/bin/pip" install -q --disable-pip-version-check "paho-mqtt==$version" ||
        { echo "paho-mqtt $version cannot be had" >&2; exit 2; }
done

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$mosquitto" -p "$port" >"$folder/log" 2>&1 &
server=$!
cat >"$folder/publish.py" <<'SOURCE'
import socket
import sys
import time

import paho.mqtt.publish as publish

end = time.monotonic() + 10
while True:
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1).close()
        break
    except OSError:
        if time.monotonic() > end:
            raise
publish.single("a/topic", "21.5", qos=1, port=int(sys.argv[1]))
print("published")
SOURCE

for version in 2.1.0 2.2.0; do
    "$folder/$version/bin/python" "$folder/publish.py" "$port" >"$folder/out" 2>"$folder/err"
    echo "paho-mqtt $version: standard output: $(cat "$folder/out"); standard error: $(cat "$folder/err")"
    case "$version $(cat "$folder/out") $(cat "$folder/err")" in
    "2.1.0 published ") ;;
    "2.2.0 published Client is not connected"*DISCONNECTED) ;;
    *) exit 1 ;;
    esac
done
