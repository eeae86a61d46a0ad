#!/bin/sh
# To etcd a key that is not there has a value that is neither equal nor unequal to any.
#
# Versions    etcd 3.4.23 (Debian 12: etcd-server 3.4.23-4+b4); the source of 3.5 has the same lines.
# Expected    A transaction's comparison of a key that is absent goes by zeros, as it does for versions, revisions and leases:
#             mod_revision EQUAL 0 is the known way to ask whether a key is new. So the value of an absent key is empty, and
#             "value NOT_EQUAL x" holds: "unless it is already mine, take it".
# What it does  Every comparison of the value of an absent key fails: EQUAL and NOT_EQUAL, LESS and GREATER, also with the empty
#             value. So the transaction answers "not succeeded" without an error and does what stands under failure, for
#             ever where only success would write the key. With a range_end, too: of a range without keys no comparison
#             of values holds, while comparisons of versions do.
# Source      etcd 3.4.23, etcdserver/apply.go, applyCompare(): "Always fail if comparing a value on a key/keys that doesn't
#             exist; nil == empty string in grpc; no way to represent missing value". Documentation of Compare: nothing.
# For us      Brokers compare what they read by mod_revision only, with 0 for what was not there (broker/tempos_broker/fleet/).
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill "$server" 2>/dev/null || :; wait "$server" 2>/dev/null || :; fi; rm -rf "$folder"' EXIT
cd "$folder"
command -v apt-get >/dev/null && command -v curl >/dev/null && command -v python3 >/dev/null ||
    { echo "needs apt-get, curl and Python" >&2; exit 2; }
apt-get download -qq etcd-server=3.4.23-4+b4 >/dev/null 2>&1 ||
    { echo "the package cannot be had (apt-get update?)" >&2; exit 2; }
for package in *.deb; do dpkg-deb -x "$package" root; done
etcd=$folder/root/usr/bin/etcd
"$etcd" --version 2>/dev/null | grep -q 'Version: 3.4.23' || { echo "it cannot be run here" >&2; exit 2; }

set -- $(python3 -c '
import socket
socks = [socket.socket() for _ in range(2)]
for sock in socks:
    sock.bind(("127.0.0.1", 0))
print(*(sock.getsockname()[1] for sock in socks))')
api=http://127.0.0.1:$1 peers=http://127.0.0.1:$2
"$etcd" --data-dir data --listen-client-urls "$api" --advertise-client-urls "$api" --listen-peer-urls "$peers" \
    --initial-advertise-peer-urls "$peers" --initial-cluster "default=$peers" >log 2>&1 &
server=$!
curl -sf --retry 50 --retry-delay 1 --retry-connrefused --max-time 20 "$api/health" | grep -q true ||
    { echo "etcd does not come up" >&2; exit 2; }

cat > run.py <<'SOURCE'
import base64, json, sys, urllib.request

def coded(text):
    return base64.b64encode(text.encode()).decode()

def ask(path, **request):
    asked = urllib.request.Request(f"{sys.argv[1]}/v3/{path}", json.dumps(request).encode())
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return json.load(answer)

def holds(key, result, **compared):
    name, = compared.keys() - {"range_end"}
    target = {"mod_revision": "MOD"}.get(name, name.upper())
    each = {"key": coded(key), "target": target, "result": result, **compared}
    return ask("kv/txn", compare=[each]).get("succeeded", False)

ask("kv/put", key=coded("there"), value=coded("m"))
RESULTS = ("EQUAL", "NOT_EQUAL", "LESS", "GREATER")
ROWS = {
    "the value of a key that is there, with x": ("there", {"value": coded("x")}),
    "the value of an absent key, with x": ("absent", {"value": coded("x")}),
    "the value of an absent key, with the empty one": ("absent", {"value": ""}),
    "the values of a range without keys, with x": ("a", {"value": coded("x"), "range_end": coded("b")}),
    "the version of an absent key, with 5": ("absent", {"version": "5"}),
    "the mod_revision of an absent key, with 0": ("absent", {"mod_revision": "0"}),
    "the lease of an absent key, with 0": ("absent", {"lease": "0"}),
}
seen = []
for what, (key, compared) in ROWS.items():
    held = [result for result in RESULTS if holds(key, result, **compared)]
    seen.append(held)
    print(f"  {what:48}{', '.join(held) or 'nothing'} holds")
sys.exit(seen != [["NOT_EQUAL", "LESS"], [], [], [], ["NOT_EQUAL", "LESS"], ["EQUAL"], ["EQUAL"]])
SOURCE
"$etcd" --version | head -1
python3 run.py "$api"
