#!/bin/sh
# nfdump -q, which is to suppress header and statistics of text outputs, takes the brackets off its JSON.
#
# Versions    nfdump 1.7.1 (Debian 12: nfdump 1.7.1-2+deb12u1).
# Expected    `-o json` prints an array of flows. -q is documented for text outputs, of which JSON has neither header
#             nor statistics: it changes nothing, and any JSON reader takes what comes.
# What it does  With -q the brackets are missing, while the commas between objects stay: `{...},{...}`, which is neither
#             JSON nor a line for each flow. A reader takes the first flow and fails at the comma; with a single flow
#             there is nothing to notice.
# Source      nfdump(1) of 1.7.1, -q: "text outputs"; the brackets are printed as header and footer of the format.
# For us      Tests read flows in a format of their own (fmt:...), which -q leaves whole.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
command -v apt-get >/dev/null || { echo "needs apt-get" >&2; exit 2; }
apt-get download -qq nfdump=1.7.1-2+deb12u1 >/dev/null 2>&1 || { echo "the package cannot be had (apt-get update?)" >&2; exit 2; }
for package in *.deb; do dpkg-deb -x "$package" root; done
nfcapd=$folder/root/usr/bin/nfcapd nfdump=$folder/root/usr/bin/nfdump
"$nfdump" -V | grep -q 1.7.1 || { echo "it cannot be run here" >&2; exit 2; }

cat > run.py <<'SOURCE'
import json, os, pathlib, signal, socket, struct, subprocess, sys, time

nfcapd, nfdump = sys.argv[1:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
os.mkdir("flows")
collector = subprocess.Popen(
    (nfcapd, "-w", "flows", "-b", "127.0.0.1", "-p", str(port), "-t", "3600"),
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
)


def waiting():
    """Bytes in the collector's socket; None: it has none yet."""
    for line in pathlib.Path("/proc/net/udp").read_text().splitlines():
        if line.split()[1].endswith(f":{port:04X}"):
            return int(line.split()[4].partition(":")[2], 16)


def until(is_so):
    end = time.monotonic() + 10
    while not is_so():
        if time.monotonic() > end:
            collector.kill()
            sys.exit(2)
        time.sleep(0.01)


until(lambda: waiting() is not None)
address = socket.inet_aton
flow = lambda number: struct.pack(
    "!4s4s4sHHIIIIHHBBBBHHBBH", address(f"192.0.2.{number}"), address("198.51.100.1"), bytes(4), 1, 2, 3, 300,
    1000, 2000, 10000 + number, 53, 0, 0, 17, 0, 0, 0, 0, 0, 0)
head = struct.pack("!HHIIIIBBH", 5, 2, 10000, 1700000000, 0, 0, 0, 0, 0)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.sendto(head + flow(1) + flow(2), ("127.0.0.1", port))
until(lambda: waiting() == 0)
collector.send_signal(signal.SIGTERM)
collector.wait(10)


def told(*options):
    command = (nfdump, *options, "-R", "flows", "-o", "json", "-N")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


whole, quiet = told(), told("-q")
print(f"without -q: {len(json.loads(whole))} flows, begins {whole.strip()[:1]!r}, ends {whole.strip()[-1:]!r}")
try:
    json.loads(quiet)
    fails = "is JSON"
except ValueError as error:
    fails = f"is no JSON: {error}"
print(f"with -q: begins {quiet.strip()[:1]!r}, ends {quiet.strip()[-1:]!r}; {fails}")
seen = quiet.strip()[:1] == "{" and "is no JSON" in fails and len(json.loads(f"[{quiet}]")) == 2
sys.exit(0 if len(json.loads(whole)) == 2 and seen else 1)
SOURCE
python3 run.py "$nfcapd" "$nfdump"
