#!/bin/sh
# Loading a program by tc makes folders and links in BPF's file system, which stay when the program is gone.
#
# Versions    iproute2 6.1.0 (Debian 12: 6.1.0-3) with libbpf 1.1.2, on Linux 6.18.44. Needs root, for a network namespace and
#             a mount namespace with a BPF file system of their own; nothing outside is touched.
# Expected    A program without maps pins nothing, so "tc filter add ... bpf object-file" leaves nothing there; and what there
#             is goes with the filter, the qdisc or the device.
# What it does  /sys/fs/bpf/tc and tc/globals are made, and links to it named xdp and ip. They
#             stay after the filter, the qdisc and the device are deleted. `ip netns exec` hides it, for its /sys is another one.
# Source      iproute2 lib/bpf_legacy.c: bpf_gen_hierarchy() and bpf_gen_slave() run whenever an object is loaded, with or
#             without libbpf.
# For us      Whoever looks for what a program left in /sys/fs/bpf finds these. Links that lose, of the benchmark, load their
#             programs with a BPF file system of their own, and a test looks that the folder is not there afterwards.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

[ "$(id -u)" = 0 ] || { echo "needs root: it loads a BPF program" >&2; exit 2; }
unshare --net --mount true 2>/dev/null || { echo "needs the right to make namespaces" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq iproute2=6.1.0-3 libmnl0 libbpf1=1:1.1.2-0+deb12u1 libbsd0 libmd0 libcap2 libdb5.3 libelf1 libselinux1 \
    libpcre2-8-0 libtirpc3 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 libcom-err2 libkeyutils1 libxtables12 \
    clang-14=1:14.0.6-12 libclang-cpp14=1:14.0.6-12 libllvm14=1:14.0.6-12 libedit2 libz3-4 libxml2 libicu72 \
    >/dev/null 2>&1 || { echo "the packages cannot be had (apt-get update?)" >&2; exit 2; }
for package in *.deb; do dpkg-deb -x "$package" root; done
export LD_LIBRARY_PATH="$folder/root/usr/lib/$(uname -m)-linux-gnu:$folder/root/lib/$(uname -m)-linux-gnu:$folder/root/usr/lib/llvm-14/lib"
export PATH="$folder/root/sbin:$folder/root/bin:$PATH"

cat > passes.c <<'SOURCE'
__attribute__((section("tc"), used)) int passes(void *frame) { return 0; }
char LICENSE[] __attribute__((section("license"), used)) = "GPL";
SOURCE
root/usr/lib/llvm-14/bin/clang -O2 -g -target bpf -c passes.c -o passes.o

cat > try.sh <<'SOURCE'
set -eu
mount -t bpf bpf /sys/fs/bpf
there() { (cd /sys/fs/bpf && find . -mindepth 1 ! -name '*.debug' | sort | tr '\n' ' '); }
ip link add near type veth peer name far
tc qdisc add dev near clsact
before=$(there)
tc filter add dev near ingress bpf direct-action object-file passes.o section tc
loaded=$(there)
tc filter del dev near ingress
tc qdisc del dev near clsact
ip link del near
after=$(there)
echo "  before:             ${before:-nothing}"
echo "  while it is loaded: ${loaded:-nothing}"
echo "  without the device: ${after:-nothing}"
[ -z "$before" ] && [ "$after" = "./ip ./tc ./tc/globals ./xdp " ] && [ "$loaded" = "$after" ]
SOURCE
echo "Linux $(uname -r), $(tc -V); a program without maps, on a veth"
unshare --net --mount --propagation private sh try.sh
