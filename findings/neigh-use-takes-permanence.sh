#!/bin/sh
# "ip neigh replace ADDRESS dev DEVICE use" forgets the MAC of a permanent entry.
#
# Versions    iproute2 6.1.0 (Debian 12: 6.1.0-3) on Linux 6.18.44; the kernel does so since 5.16.
# Expected    `use` tells the kernel that somebody uses the entry, so that it confirms in time who is there. Of a
#             permanent entry, which nobody is to be asked about, there is nothing to confirm: it stays as it is.
# What it does  The MAC that an administrator had set for good is gone at once: the entry is INCOMPLETE, the kernel asks
#             for the address, and where nobody answers, as at a device that speaks no ARP, it stays unknown. Of an entry
#             of `nud noarp`, which means nearly the same, nothing is taken.
# Source      ip-neighbour(8): "use"; Linux commit 3dc20f4762c6, which lets an entry go from permanent to used and back.
# For us      A broker has its members' neighbours confirmed so, before the fast path needs them: it passes over those
#             that are set for good (fastpath/tempos_fastpath/network/netlink.py).
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 2; }
command -v apt-get >/dev/null || { echo "needs apt-get" >&2; exit 2; }
apt-get download -qq iproute2=6.1.0-3 >/dev/null 2>&1 || { echo "the package cannot be had (apt-get update?)" >&2; exit 2; }
dpkg-deb -x ./*.deb root
ip=$folder/root/bin/ip
[ -x "$ip" ] || ip=$folder/root/sbin/ip
"$ip" -V | grep -q 6.1.0 || { echo "it cannot be run here" >&2; exit 2; }

cat > run.sh <<'SOURCE'
set -eu
ip=$1
"$ip" link add near0 type veth peer name far0
"$ip" link set near0 up
"$ip" link set far0 up
"$ip" addr add 192.0.2.1/24 dev near0
mac=02:00:00:00:00:02
state() { "$ip" -4 neigh show nud all 192.0.2."$1" dev near0; }
for each in "2 permanent" "3 noarp"; do
    set -- $each
    "$ip" neigh add 192.0.2."$1" lladdr $mac dev near0 nud "$2"
    echo "set:  $(state "$1")"
    "$ip" neigh replace 192.0.2."$1" dev near0 use
    echo "used: $(state "$1")"
done
case "$(state 3)" in *"$mac"*NOARP*) ;; *) exit 1;; esac
case "$(state 2)" in *"$mac"*|*PERMANENT*) exit 1;; esac
SOURCE
echo "Linux $(uname -r), $("$ip" -V)"
unshare -n sh run.sh "$ip"
