#!/bin/sh
# What a veth is told of GRO while it is down, its peer's XDP features never learn.
#
# Versions    Linux 6.18 (the running kernel is tried; 6.3 is the first with the netlink family), iproute2 6.1.0-3,
#             ethtool 1:6.1-1 (Debian 12). Needs root, for a network namespace of its own; nothing outside is touched.
# Expected    A veth takes redirected frames where its peer has GRO or an XDP program, and its XDP features say so
#             (NETDEV_XDP_ACT_NDO_XMIT of the netlink family `netdev`). So with GRO on at the peer, and both up, they
#             say yes, and with GRO off they say no, in whatever order that came about.
# What it does  GRO that is switched while the peer is down counts for the frames once it is up, but not for the
#             features: those stay as they were. Switched on, they go on saying no, and by them the kernel refuses
#             redirected frames (EOPNOTSUPP) which the device could take; switched off, they go on saying yes, and
#             frames are lost (ENXIO). Taking the veth itself down and up puts it right.
#             The refusal and the loss were seen with a program that redirects; shown here is what the features say.
# Source      drivers/net/veth.c: veth_set_features() returns before it gets to the peer's features if the device is
#             down; veth_open() sets the device's own features, not its peer's.
# For us      GRO is to be switched on while the interface is up. Frames that are refused are counted and believed
#             more than what the features say.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

[ "$(id -u)" = 0 ] || { echo "needs root: it makes a network namespace" >&2; exit 2; }
unshare --net true 2>/dev/null || { echo "needs the right to make a network namespace" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

apt-get download -qq iproute2=6.1.0-3 ethtool=1:6.1-1 libmnl0 libbpf1 libbsd0 libmd0 libcap2 libdb5.3 libelf1 \
    libselinux1 libpcre2-8-0 libtirpc3 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 libcom-err2 \
    libkeyutils1 libxtables12 >/dev/null 2>&1 || { echo "the packages cannot be had (apt-get update?)" >&2; exit 2; }
for package in *.deb; do dpkg-deb -x "$package" root; done

cat > look.py <<'SOURCE'
"""The XDP features of an interface, from the netlink family `netdev`; none where the kernel has none."""
import socket, struct, sys

REQUEST, DUMP, DONE, ERROR = 1, 0x300, 3, 2
CONTROL, GET_FAMILY, FAMILY_ID, FAMILY_NAME = 0x10, 3, 1, 2
DEV_GET, IFINDEX, FEATURES, NDO_XMIT = 1, 1, 3, 4

def attributes(data):
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 or 4:]
    return found

def ask(sock, family, command, flags, body=b""):
    message = struct.pack("BBH", command, 1, 0) + body
    sock.send(struct.pack("IHHII", 16 + len(message), family, REQUEST | flags, 1, 0) + message)
    answers = []
    while True:
        data = sock.recv(65536)
        while data:
            length, kind = struct.unpack_from("IH", data)
            if kind == ERROR and struct.unpack_from("i", data, 16)[0]:
                sys.exit("the kernel has no such family: it is older than 6.3")
            if kind in (DONE, ERROR):
                return answers
            answers.append(attributes(data[20:length]))
            data = data[(length + 3) & ~3:]
        if not flags:
            return answers

with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16) as sock:
    name = b"netdev\0"
    named = struct.pack("HH", 4 + len(name), FAMILY_NAME) + name + b"\0"
    (family,) = ask(sock, CONTROL, GET_FAMILY, 0, named)
    devices = ask(sock, struct.unpack("H", family[FAMILY_ID][:2])[0], DEV_GET, DUMP)
wanted = socket.if_nametoindex(sys.argv[1])
(features,) = [struct.unpack("Q", each[FEATURES])[0] for each in devices
               if struct.unpack("I", each[IFINDEX])[0] == wanted]
print("yes" if features & NDO_XMIT else "no")
SOURCE

cat > try.sh <<'SOURCE'
set -eu
pair() { ip link add near type veth peer name far; ip link set near up; }
gro() { ethtool -k far | sed -n 's/^generic-receive-offload: //p'; }
told() { python3 look.py near; }
pair; ip link set far up; ethtool -K far gro on; echo "on, while up: $(gro) $(told)"
ip link del near
pair; ethtool -K far gro on; ip link set far up; echo "on, while down: $(gro) $(told)"
ip link set near down; ip link set near up; echo "and then near down and up: $(gro) $(told)"
ip link set far down; ethtool -K far gro off; ip link set far up; echo "off, while down: $(gro) $(told)"
SOURCE
libraries=$(dirname "$(find "$folder/root" -name 'libmnl.so.0' | head -1)")
if ! seen=$(PATH="$folder/root/sbin:$folder/root/bin:$folder/root/usr/sbin:$PATH" \
    LD_LIBRARY_PATH="$libraries:$folder/root/lib/$(uname -m)-linux-gnu" unshare --net sh try.sh 2>why); then
    echo "cannot be tried here: $(tail -1 why)" >&2
    exit 2
fi
echo "Linux $(uname -r); GRO at far was switched ...: GRO at far, does near say that it takes redirected frames?"
echo "$seen" | sed 's/^/  /'
[ "$seen" = "on, while up: on yes
on, while down: on no
and then near down and up: on yes
off, while down: off yes" ]
