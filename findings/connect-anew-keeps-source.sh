#!/bin/sh
# A UDP socket that is connected to somebody else goes on sending from the address that suited the first one.
#
# Versions    Linux 6.18.44 (the running kernel is tried), Python 3, iproute2. Needs root, for a network namespace of
#             its own; nothing outside is touched.
# Expected    connect() of a socket that was never bound chooses the address to send from, by the way to whom it is
#             connected; connected anew ("may use connect() multiple times to change their association", connect(2)) it
#             chooses anew. And an address that is taken from this machine concerns who was bound to it.
# What it does  What the first connect() chose stays, as if the socket were bound to it. Connected to somebody behind
#             another interface it sends there from the first one's address, so answers go astray; connected to
#             loopback first, it can be connected to nobody else: EINVAL. Once the address is gone, each send and
#             each further connect() fails with ENETUNREACH, with the way there in place and another address on the very
#             same network: the error of a peer that cannot be reached. A connect() to AF_UNSPEC in between lets
#             the address go, and the port with it.
# Source      net/ipv4/datagram.c, __ip4_datagram_connect(): the address is set "if (!inet->inet_saddr)" only;
#             net/ipv4/route.c, ip_route_output_key_hash_rcu(): no way from an address that is not ours.
# For us      Who asks a member by a connected socket takes a new socket where the old one finds no way, before the member
#             is held to be out of reach (broker/tempos_broker/members/health.py); so do clients whose machine moves.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

[ "$(id -u)" = 0 ] || { echo "needs root: it makes a network namespace" >&2; exit 2; }
unshare --net true 2>/dev/null || { echo "needs the right to make a network namespace" >&2; exit 2; }
command -v ip >/dev/null && command -v python3 >/dev/null || { echo "needs iproute2 and Python" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/try.py" <<'SOURCE'
import ctypes, errno, os, socket, subprocess, sys

FIRST, SECOND, HERE = "192.0.2.9", "198.51.100.9", "127.0.0.1"

def run(words):
    subprocess.run(["ip", *words.split()], check=True)

for name, address in (("one", "192.0.2.1/24"), ("two", "198.51.100.1/24")):
    run(f"link add {name} type veth peer name {name}-far")
    run(f"link set {name}-far up")
    run(f"link set {name} up")
    run(f"address add {address} dev {name}")
run("link set lo up")

def new():
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

def tried(do, sock):
    try:
        do()
    except OSError as error:
        return errno.errorcode[error.errno]
    return sock.getsockname()[0]

def connected(sock, to):
    return tried(lambda: sock.connect((to, 9)), sock)

def dissolved(sock):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(sock.fileno(), bytes(16), 16):
        raise OSError(ctypes.get_errno(), "connect to AF_UNSPEC")

seen = []
def told(what, came):
    seen.append(came)
    print(f"  {what:62} {came}")

print(f"Linux {os.uname().release}; what a socket sends from, connected to")
told("the second network", connected(new(), SECOND))
sock = new()
told("the first network", connected(sock, FIRST))
told("and then to the second", connected(sock, SECOND))
dissolved(sock)
told("and then to nobody, and then to the second", connected(sock, SECOND))
sock = new()
connected(sock, HERE)
told("loopback, and then to the second network", connected(sock, SECOND))
sock = new()
connected(sock, FIRST)
run("address del 192.0.2.1/24 dev one")
run("address add 192.0.2.2/24 dev one")
told("the first network, which gives this machine another address", tried(lambda: sock.send(b"x"), sock))
told("the same, connected there anew", connected(sock, FIRST))
told("the same, by a new socket", connected(new(), FIRST))
sys.exit(seen != ["198.51.100.1", "192.0.2.1", "192.0.2.1", "198.51.100.1", "EINVAL", "ENETUNREACH", "ENETUNREACH",
                  "192.0.2.2"])
SOURCE
unshare --net python3 "$folder/try.py"
