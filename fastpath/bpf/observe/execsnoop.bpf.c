/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs that are started: a record for each exec that succeeds, with its arguments as the new program finds them.
 *
 * The kernel tells of it once the new memory is in place, and has just written the arguments there.
 */
#include "observe.h"

#define ARGS_LEN 4096

struct tempos_exec {
	__u64 ns;
	__u32 pid;
	__u32 parent;
	__u32 length;           /* of the arguments, each with its end */
	__u32 pad;
	char comm[COMM_LEN];
	__u8 args[ARGS_LEN];
};
SHOWN(tempos_exec);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} execs SEC(".maps");

__u64 lost_execs = 0;

SEC("?tp_btf/sched_process_exec")
int BPF_PROG(tempos_executed, struct task_struct *task)
{
	__u64 from = BPF_CORE_READ(task, mm, arg_start), length = BPF_CORE_READ(task, mm, arg_end) - from;
	__u32 pid = wanted_here(), taken = length < ARGS_LEN ? length : ARGS_LEN;
	struct tempos_exec *record;

	if (!pid)
		return 0;
	record = bpf_ringbuf_reserve(&execs, sizeof(*record), 0);
	if (!record) {
		__sync_fetch_and_add(&lost_execs, 1);
		return 0;
	}
	record->ns = bpf_ktime_get_ns();
	record->pid = pid;
	record->parent = BPF_CORE_READ(task, real_parent, tgid);
	record->length = length;
	record->pad = 0;
	bpf_get_current_comm(record->comm, sizeof(record->comm));
	asm volatile("" : "+r"(taken)); /* lest the bound is checked on another copy than the one used */
	if (taken > ARGS_LEN || bpf_probe_read_user(record->args, taken, (const void *)from))
		record->length = 0;
	submit(&execs, record);
	return 0;
}
