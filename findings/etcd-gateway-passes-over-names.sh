#!/bin/sh
# etcd's JSON gateway takes a request whose fields are misspelt, and does what is left of it.
#
# Versions    etcd 3.4.23 (Debian 12: etcd-server 3.4.23-4+b4), curl.
# Expected    A field that the request does not have is refused: parsers of protobuf's JSON form reject unknown fields
#             unless told otherwise, and a value that is of the wrong type is refused here, too.
# What it does  Unknown fields are left out without a word, and names are case-sensitive. Those of leases are easily
#             wrong: a grant answers "ID" and takes "TTL", a put wants "lease". So a put with "leaseID" or "lease_id" is
#             a put for ever, which also takes a key from the lease that it had; {"ttl": 60} is a lease without TTL,
#             which is granted, for 2 s; a keep-alive of {"id": ...} is answered as well, for lease 0. A comparison
#             whose "mod_revision" is misspelt compares with 0, so one that asks for more than a revision holds for any.
# Source      etcd 3.4.23, embed/serve.go: gw.NewServeMux() of grpc-gateway, whose JSON is read as it is by default.
# For us      What a fleet asks is written in one file (broker/tempos_broker/fleet/etcd.py); tests see that what it writes
#             ends with its lease, and that what is not as expected is not written.
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
import base64, json, subprocess, sys

def ask(path, **request):
    told = subprocess.run(["curl", "-s", "-d", json.dumps(request), f"{sys.argv[1]}/v3/{path}"],
                          check=True, capture_output=True, text=True, timeout=20).stdout
    return json.loads(told)

key = base64.b64encode(b"member").decode()
lease = ask("lease/grant", TTL=60)["ID"]

def leased(**fields):
    """Whether the key has the lease once it was put anew, with these fields."""
    answer = ask("kv/put", key=key, value=key, **fields)
    assert "error" not in answer, answer
    (entry,) = ask("kv/range", key=key)["kvs"]
    return entry.get("lease") == lease

seen = {
    "a put with lease": leased(lease=lease),
    "a put with leaseID": leased(leaseID=lease),
    "a put with lease, again": leased(lease=lease),
    "a put with Lease": leased(Lease=lease),
}
for what, has in seen.items():
    print(f"  {what}: the key is {'under the lease' if has else 'there for ever'}")
short = ask("lease/grant", ttl=60)["TTL"]
print(f"  a lease with a ttl of 60 in small letters: {short} s")
alive = ask("lease/keepalive", id=lease)["result"]
print(f"  keep-alive of an id in small letters: no error, TTL {alive.get('TTL')}")
later = [{"key": key, "target": "MOD", "result": "GREATER", name: "1000000"} for name in ("mod_revision", "revision")]
held = [ask("kv/txn", compare=[each]).get("succeeded", False) for each in later]
print(f"  last written after revision 1,000,000: {held[0]}, and with a wrong name in place of mod_revision: {held[1]}")
wrong = ask("lease/grant", TTL="soon")
print(f"  a TTL that is no number: {'refused' if wrong.get('error') else 'taken'}")
sys.exit(list(seen.values()) != [True, False, True, False] or short != "2" or "TTL" in alive or held != [False, True]
         or not wrong.get("error"))
SOURCE
"$etcd" --version | head -1
python3 run.py "$api"
