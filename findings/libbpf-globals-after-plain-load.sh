#!/bin/sh
# After bpf_object__load() the memory that libbpf gives for a program's global variables is not what the program writes.
#
# Versions    libbpf 1.1.2 (Debian 12: libbpf1 and libbpf-dev 1:1.1.2-0+deb12u1), clang 14.0.6. Needs root; nothing
#             is attached.
# Expected    libbpf makes the map of .bss mappable, writes what bpf_map__initial_value() points to into it at the load,
#             and that very pointer is where a skeleton's variables live: so it is live after the load.
# What it does  Only bpf_object__load_skeleton() maps the map there once it is loaded. After a plain bpf_object__load()
#             the pointer still is good, leads to the values of before the load, and never changes again; the map has
#             the program's values, by look-up and mapped by hand.
# Source      libbpf 1.1.2, src/libbpf.c: mmap of map->mmaped with MAP_FIXED stands in bpf_object__load_skeleton alone.
# For us      Counters in global variables are read through a look-up of their map.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

[ "$(id -u)" = 0 ] || { echo "needs root: it loads a BPF program" >&2; exit 2; }
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

cat > count.c <<'SOURCE'
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
__u64 counted = 0;
SEC("syscall") int count(void *context)
{
	__sync_fetch_and_add(&counted, 1);
	return 0;
}
char LICENSE[] SEC("license") = "GPL";
SOURCE
root/usr/lib/llvm-14/bin/clang -O2 -g -target bpf -Iroot/usr/include \
    -idirafter "root/usr/include/$(uname -m)-linux-gnu" -c count.c -o count.o

cat > run.py <<'SOURCE'
import ctypes, mmap, sys
libbpf = ctypes.CDLL(sys.argv[1])
libbpf.libbpf_version_string.restype = ctypes.c_char_p
for name in ("bpf_object__open_file", "bpf_object__find_program_by_name", "bpf_object__next_map",
             "bpf_map__initial_value"):
    getattr(libbpf, name).restype = ctypes.c_void_p
libbpf.libbpf_set_print(None)
opened = ctypes.c_void_p(libbpf.bpf_object__open_file(b"count.o", None))
if libbpf.bpf_object__load(opened):
    sys.exit("the program was not loaded")
program = ctypes.c_void_p(libbpf.bpf_object__find_program_by_name(opened, b"count"))
for _ in range(3):
    if libbpf.bpf_prog_test_run_opts(libbpf.bpf_program__fd(program), (ctypes.c_uint64 * 16)(128)):
        sys.exit("the program did not run")
variables = ctypes.c_void_p(libbpf.bpf_object__next_map(opened, None))
descriptor, size = libbpf.bpf_map__fd(variables), ctypes.c_size_t()
given = libbpf.bpf_map__initial_value(variables, ctypes.byref(size))
given = ctypes.c_uint64.from_address(given).value
found = ctypes.c_uint64()
if libbpf.bpf_map_lookup_elem(descriptor, ctypes.byref(ctypes.c_uint32(0)), ctypes.byref(found)):
    sys.exit("the map cannot be read")
with mmap.mmap(descriptor, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
    mapped = int.from_bytes(memory[:8], sys.byteorder)
print(f"libbpf {libbpf.libbpf_version_string().decode()}; a global variable that a program has counted up three times:")
print(f"  where bpf_map__initial_value() points  {given}")
print(f"  looked up in its map                   {found.value}")
print(f"  its map, mapped                        {mapped}")
sys.exit((given, found.value, mapped) != (0, 3, 3))
SOURCE
python3 run.py "$libraries/libbpf.so.1"
