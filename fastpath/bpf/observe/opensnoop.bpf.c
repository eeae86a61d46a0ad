/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Files that processes open: a record for each open, openat, openat2 and creat that ends, whether it opened something
 * or not.
 *
 * The path is as the process gave it, read once the kernel has read it itself: then its page is there. One that is
 * longer than most goes by a ring of its own, so that the records of the others stay small.
 */
#include "calls.h"
#include "observe.h"

#define SHORT_LEN 256

/* Where each call has its path; what user space puts into `calls`. */
enum { PATH_FIRST = 1, PATH_SECOND };

struct tempos_open {
	__u64 ns;
	__u32 pid;
	__s32 result;   /* descriptor, or -errno */
	char comm[COMM_LEN];
	char path[SHORT_LEN];
};
SHOWN(tempos_open);

struct tempos_long_open {
	__u64 ns;
	__u32 pid;
	__s32 result;
	char comm[COMM_LEN];
	char path[PATH_MAX];
};
SHOWN(tempos_long_open);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} opens SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} long_opens SEC(".maps");

__u64 lost_opens = 0;

static __always_inline void hand_on_long(__u32 pid, int result, const void *path)
{
	struct tempos_long_open *record = bpf_ringbuf_reserve(&long_opens, sizeof(*record), 0);

	if (!record) {
		__sync_fetch_and_add(&lost_opens, 1);
		return;
	}
	record->ns = bpf_ktime_get_ns();
	record->pid = pid;
	record->result = result;
	bpf_get_current_comm(record->comm, sizeof(record->comm));
	if (bpf_probe_read_user_str(record->path, sizeof(record->path), path) < 0)
		record->path[0] = 0;
	submit(&long_opens, record);
}

SEC("?tp_btf/sys_exit")
int BPF_PROG(tempos_opened, struct pt_regs *registers, long result)
{
	struct call call;
	struct tempos_open *record;
	const void *path;
	long length;
	__u32 pid;

	if (!is_ours(&call, registers) || is_begun_anew(result))
		return 0;
	pid = wanted_here();
	if (!pid)
		return 0;
	path = (const void *)argument(&call, call.kind == PATH_SECOND);
	record = bpf_ringbuf_reserve(&opens, sizeof(*record), 0);
	if (!record) {
		__sync_fetch_and_add(&lost_opens, 1);
		return 0;
	}
	length = bpf_probe_read_user_str(record->path, sizeof(record->path), path);
	if (length == sizeof(record->path)) {
		bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
		hand_on_long(pid, result, path);
		return 0;
	}
	if (length < 0)
		record->path[0] = 0;
	record->ns = bpf_ktime_get_ns();
	record->pid = pid;
	record->result = result;
	bpf_get_current_comm(record->comm, sizeof(record->comm));
	submit(&opens, record);
	return 0;
}
