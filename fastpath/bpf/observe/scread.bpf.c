/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Files that processes read: how often each was read, by its name, which comes from the table of descriptors.
 */
#include "calls.h"
#include "counts.h"
#include "files.h"
#include "observe.h"

#define MAX_FILES 16384
#define ANON_INODE_FS_MAGIC 0x09041934

/* What a name is. */
enum { NONE, OF_FILE, ANONYMOUS };

struct tempos_read {
	__u16 call;     /* what user space puts into `calls` */
	__u16 what;     /* NONE: the descriptor stands for nothing; ANONYMOUS: the kernel's own word, in brackets */
	char name[NAME_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_FILES);
	__type(key, struct tempos_read);
	__type(value, __u64);
} reads SEC(".maps");

__u64 lost_reads = 0;

SEC("?tp_btf/sys_exit")
int BPF_PROG(tempos_read, struct pt_regs *registers, long result)
{
	struct tempos_read key;
	struct call call;
	struct file *file;

	if (!is_ours(&call, registers) || is_begun_anew(result) || !wanted_here())
		return 0;
	__builtin_memset(&key, 0, sizeof(key));
	key.call = call.kind;
	file = file_of(argument(&call, 0));
	if (file) {
		bool anonymous = BPF_CORE_READ(file, f_inode, i_sb, s_magic) == ANON_INODE_FS_MAGIC;

		key.what = anonymous ? ANONYMOUS : OF_FILE;
		bpf_probe_read_kernel_str(key.name, sizeof(key.name), BPF_CORE_READ(file, f_path.dentry, d_name.name));
	}
	if (!count(&reads, &key, 1))
		__sync_fetch_and_add(&lost_reads, 1);
	return 0;
}
