#!/bin/sh
# A program that is not loaded keeps the rest of its BPF object from loading.
#
# Versions    libbpf 1.1.2 (Debian 12: libbpf1 and libbpf-dev 1:1.1.2-0+deb12u1), clang 14.0.6. Needs root and a
#             kernel with BTF; nothing is attached.
# Expected    A program whose section begins with "?" is left out of the load unless it is asked for (SEC("?xdp"),
#             libbpf 0.8). So a kernel function that only such a program calls need not exist where it is left out.
# What it does  Every function that any program of the object names is looked up before the programs are loaded. One
#             that is missing fails the whole load with EINVAL, also for programs that never call it. Declared
#             __weak, it does not.
# Source      libbpf 1.1.2, src/libbpf.c: bpf_object__resolve_externs() goes over the object's externs and does not
#             ask which program uses them.
# For us      Functions that not every kernel has are declared __weak, or read by other means.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

[ "$(id -u)" = 0 ] || { echo "needs root: it loads BPF programs" >&2; exit 2; }
[ -e /sys/kernel/btf/vmlinux ] || { echo "needs a kernel with BTF" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

apt-get download -qq libbpf1=1:1.1.2-0+deb12u1 libbpf-dev=1:1.1.2-0+deb12u1 clang-14=1:14.0.6-12 \
    libclang-cpp14=1:14.0.6-12 libllvm14=1:14.0.6-12 libclang-common-14-dev=1:14.0.6-12 \
    linux-libc-dev libelf1 libedit2 libz3-4 libbsd0 libmd0 libxml2 libicu72 >/dev/null 2>&1 ||
    { echo "the packages cannot be had (apt-get update?)" >&2; exit 2; }
for package in *.deb; do dpkg-deb -x "$package" root; done
libraries=$(dirname "$(find "$folder/root" -name libbpf.so.1)")
export LD_LIBRARY_PATH="$libraries:$folder/root/usr/lib/llvm-14/lib"

for kind in plain weak; do
    [ $kind = weak ] && weak=__weak || weak=
    cat > $kind.c <<SOURCE
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#ifndef __weak
#define __weak __attribute__((weak))
#endif
extern int a_function_that_no_kernel_has(void) __ksym $weak;
SEC("xdp") int needed(struct xdp_md *frame) { return XDP_PASS; }
SEC("?xdp") int left_out(struct xdp_md *frame) { return a_function_that_no_kernel_has(); }
char LICENSE[] SEC("license") = "GPL";
SOURCE
    root/usr/lib/llvm-14/bin/clang -O2 -g -target bpf -Iroot/usr/include \
        -idirafter "root/usr/include/$(uname -m)-linux-gnu" -c $kind.c -o $kind.o
done

cat > load.py <<'SOURCE'
import ctypes, errno, sys
libbpf = ctypes.CDLL(sys.argv[1])
libbpf.bpf_object__open_file.restype = ctypes.c_void_p
libbpf.bpf_object__load.argtypes = libbpf.bpf_object__close.argtypes = [ctypes.c_void_p]
libbpf.libbpf_version_string.restype = ctypes.c_char_p
libbpf.libbpf_set_print(None)
seen = {}
for kind in ("plain", "weak"):
    opened = libbpf.bpf_object__open_file(f"{kind}.o".encode(), None)
    code = libbpf.bpf_object__load(opened)
    seen[kind] = errno.errorcode[-code] if code else "loaded"
    libbpf.bpf_object__close(opened)
print(f"libbpf {libbpf.libbpf_version_string().decode()}; only the program that is left out calls the function:")
print(f"  the function declared plainly  {seen['plain']}")
print(f"  the function declared __weak   {seen['weak']}")
sys.exit(seen != {"plain": "EINVAL", "weak": "loaded"})
SOURCE
python3 load.py "$libraries/libbpf.so.1"
