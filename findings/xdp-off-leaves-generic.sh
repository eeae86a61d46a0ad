#!/bin/sh
# "ip link set dev DEVICE xdp off" succeeds and leaves the program that runs there.
#
# Versions    iproute2 6.1.0 (Debian 12: 6.1.0-3) on Linux 6.18.44. Needs root, for a network namespace of its own and a
#             BPF program that passes all; nothing outside is touched.
# Expected    `off` "detaches any currently attached XDP/BPF program from the given device" (ip-link(8), xdp): it is gone
#             afterwards, or an error says why not.
# What it does  On a device whose driver knows XDP, `off` means native mode only. A program in generic mode stays and goes
#             on deciding about every packet, with exit code 0 and no word; so does a native one after "xdpgeneric off".
#             Only a program that a bpf_link holds is refused with an error, and that, too, in its own mode alone.
# Source      net/core/dev.c: dev_xdp_mode() takes a request without a mode for native where the driver has ndo_bpf, and
#             dev_xdp_attach() does nothing where that mode has no program (5.9 and later).
# For us      `tempos fastpath` names the mode of each program that it shows. What is in the way is taken off by that name:
#             xdpgeneric off, xdpdrv off; look afterwards (`ip link show`).
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

[ "$(id -u)" = 0 ] || { echo "needs root: it makes a network namespace" >&2; exit 2; }
unshare --net true 2>/dev/null || { echo "needs the right to make a network namespace" >&2; exit 2; }
[ "$(uname -m)" = x86_64 ] || { echo "the number of bpf(2) is known here for x86-64 only" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq iproute2=6.1.0-3 libmnl0 libbpf1 libbsd0 libmd0 libcap2 libdb5.3 libelf1 libselinux1 libpcre2-8-0 \
    libtirpc3 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 libcom-err2 libkeyutils1 libxtables12 \
    >/dev/null 2>&1 || { echo "the packages cannot be had (apt-get update?)" >&2; exit 2; }
for package in *.deb; do dpkg-deb -x "$package" root; done

cat > try.py <<'SOURCE'
import ctypes, os, socket, struct, subprocess, sys

BPF, PROG_LOAD, LINK_CREATE, XDP_PROGRAM, XDP_ATTACH, PASS = 321, 5, 28, 6, 37, 2
SETLINK, REQUEST_ACK, NESTED, IFLA_XDP, XDP_FD, XDP_FLAGS = 19, 5, 0x8000, 43, 1, 3
GENERIC, NATIVE = 2, 4
libc = ctypes.CDLL(None, use_errno=True)

def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    found = libc.syscall(BPF, command, buffer, len(attributes))
    if found < 0:
        raise SystemExit(f"bpf({command}): {os.strerror(ctypes.get_errno())}")
    return found

def instruction(code, destination=0, value=0):
    return struct.pack("BBhi", code, destination, 0, value)

def passes():
    text = ctypes.create_string_buffer(instruction(0xB7, 0, PASS) + instruction(0x95))
    licence = ctypes.create_string_buffer(b"GPL")
    return bpf(PROG_LOAD, struct.pack("IIQQ", XDP_PROGRAM, 2, ctypes.addressof(text), ctypes.addressof(licence)) + bytes(96))

def attribute(kind, body):
    return struct.pack("HH", 4 + len(body), kind) + body

def attach(program, mode):
    """As `ip link set ... object` does: by netlink, with no link of BPF."""
    asked = attribute(XDP_FD, struct.pack("i", program)) + attribute(XDP_FLAGS, struct.pack("I", mode))
    message = struct.pack("BxHiII", 0, 0, socket.if_nametoindex("near"), 0, 0) + attribute(NESTED | IFLA_XDP, asked)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.send(struct.pack("IHHII", 16 + len(message), SETLINK, REQUEST_ACK, 1, 0) + message)
        (error,) = struct.unpack_from("i", sock.recv(4096), 16)
    if error:
        raise SystemExit(f"attach: {os.strerror(-error)}")

def ip(words):
    return subprocess.run(["ip", *words.split()], capture_output=True, text=True)

def shown():
    words = ip("link show dev near").stdout.split()
    return next((each for each in ("xdpgeneric", "xdp", "xdpmulti") if each in words), "none")

for words in ("link add near type veth peer name far", "link set near up", "link set far up"):
    if ip(words).returncode:
        raise SystemExit("no veth can be made")
program, seen = passes(), []
for name, mode, others in (("generic", GENERIC, ("xdp", "xdpdrv")), ("native", NATIVE, ("xdpgeneric",))):
    attach(program, mode)
    for off in (*others, {GENERIC: "xdpgeneric", NATIVE: "xdp"}[mode]):
        done = ip(f"link set dev near {off} off")
        seen.append((name, off, done.returncode, shown()))
link = bpf(LINK_CREATE, struct.pack("IIII", program, socket.if_nametoindex("near"), XDP_ATTACH, GENERIC) + bytes(32))
for off in ("xdp", "xdpgeneric"):
    seen.append(("generic, by a link", off, ip(f"link set dev near {off} off").returncode, shown()))
for name, off, code, left in seen:
    print(f"  {name:20} {off + ' off':16} exit code {code}, then there is {left}")
sys.exit(seen != [
    ("generic", "xdp", 0, "xdpgeneric"), ("generic", "xdpdrv", 0, "xdpgeneric"), ("generic", "xdpgeneric", 0, "none"),
    ("native", "xdpgeneric", 0, "xdp"), ("native", "xdp", 0, "none"),
    ("generic, by a link", "xdp", 0, "xdpgeneric"), ("generic, by a link", "xdpgeneric", 2, "xdpgeneric"),
])
SOURCE
libraries=$(dirname "$(find "$folder/root" -name 'libmnl.so.0' | head -1)")
echo "Linux $(uname -r); a program that passes all, on a veth"
PATH="$folder/root/sbin:$folder/root/bin:$PATH" LD_LIBRARY_PATH="$libraries:$folder/root/lib/$(uname -m)-linux-gnu" \
    unshare --net python3 try.py
