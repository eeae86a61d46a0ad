#!/bin/sh
# BPF_CORE_READ_STR_INTO does not read the string that a pointer leads to, but the bytes of the pointer.
#
# Versions    libbpf 1.1.2 (Debian 12: libbpf1 and libbpf-dev 1:1.1.2-0+deb12u1), clang 14.0.6. Needs root and a
#             kernel with BTF; nothing is attached.
# Expected    The last of the fields that it is given is the string: for `const char *name`, as everywhere in C, what
#             the pointer leads to. BPF_CORE_READ(object, name) gives that pointer, following all before it alike.
# What it does  It reads a string from the place where the last field stands. That is right for an array in a struct;
#             of a pointer it gives its own bytes, and those behind it, up to the first zero, without an error.
# Source      libbpf 1.1.2, src/bpf_core_read.h: the final step is bpf_core_read_str(destination, size, &object->field).
# For us      A string behind a pointer is read in two steps: BPF_CORE_READ of the pointer, then
#             bpf_probe_read_kernel_str.
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

# The type of the file system that the running program's file is in has a name behind a pointer.
cat > read.c <<'SOURCE'
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#define KERNELS __attribute__((preserve_access_index))
struct file_system_type { const char *name; } KERNELS;
struct super_block { struct file_system_type *s_type; } KERNELS;
struct inode { struct super_block *i_sb; } KERNELS;
struct file { struct inode *f_inode; } KERNELS;
struct mm_struct { struct file *exe_file; } KERNELS;
struct task_struct { struct mm_struct *mm; } KERNELS;
struct { char in_one[32]; char in_two[32]; const char *pointer; } seen;
SEC("syscall") int look(void *context)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct file_system_type *type = BPF_CORE_READ(task, mm, exe_file, f_inode, i_sb, s_type);
	seen.pointer = BPF_CORE_READ(type, name);
	bpf_probe_read_kernel_str(seen.in_two, sizeof(seen.in_two), seen.pointer);
	BPF_CORE_READ_STR_INTO(&seen.in_one, type, name);
	return 0;
}
char LICENSE[] SEC("license") = "GPL";
SOURCE
root/usr/lib/llvm-14/bin/clang -O2 -g -target bpf -Iroot/usr/include \
    -idirafter "root/usr/include/$(uname -m)-linux-gnu" -c read.c -o read.o

cat > run.py <<'SOURCE'
import ctypes, pathlib, sys
libbpf = ctypes.CDLL(sys.argv[1])
libbpf.libbpf_version_string.restype = ctypes.c_char_p
for name in ("bpf_object__open_file", "bpf_object__find_program_by_name", "bpf_object__next_map"):
    getattr(libbpf, name).restype = ctypes.c_void_p
libbpf.libbpf_set_print(None)
opened = ctypes.c_void_p(libbpf.bpf_object__open_file(b"read.o", None))
if libbpf.bpf_object__load(opened):
    sys.exit("the program was not loaded")
program = ctypes.c_void_p(libbpf.bpf_object__find_program_by_name(opened, b"look"))
options = (ctypes.c_uint64 * 16)(128)
if libbpf.bpf_prog_test_run_opts(libbpf.bpf_program__fd(program), options):
    sys.exit("the program did not run")
variables = ctypes.c_void_p(libbpf.bpf_object__next_map(opened, None))
data = (ctypes.c_char * 72)()
if libbpf.bpf_map_lookup_elem(libbpf.bpf_map__fd(variables), ctypes.byref(ctypes.c_uint32(0)), data):
    sys.exit("what it saw cannot be read")
data = data.raw
in_one, in_two, pointer = data[:32].split(b"\0")[0], data[32:64].split(b"\0")[0], data[64:]
print(f"libbpf {libbpf.libbpf_version_string().decode()}; the name of a file system, behind a pointer:")
print(f"  BPF_CORE_READ, then bpf_probe_read_kernel_str  {in_two.decode()}")
print(f"  BPF_CORE_READ_STR_INTO                         {in_one!r}, the pointer being {pointer!r}")
known = {line.split()[-1] for line in pathlib.Path("/proc/filesystems").read_text().splitlines()}
sys.exit(not (in_two.decode() in known and in_one.startswith(pointer.split(b"\0")[0]) and in_one != in_two))
SOURCE
python3 run.py "$libraries/libbpf.so.1"
