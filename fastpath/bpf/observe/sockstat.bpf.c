/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How often sockets are used, and by which door: system calls that make, name, connect and accept them, and every
 * message that goes into one or comes out, by whatever call.
 */
#include "calls.h"
#include "observe.h"

/* What user space puts into `calls`, and below it the two that are no system calls. */
enum { SENT, RECEIVED, FIRST_CALL, DOORS = 16 };

struct tempos_uses {
	__u64 times[DOORS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tempos_uses);
} uses SEC(".maps");

static __always_inline void used(__u32 door)
{
	const __u32 only = 0;
	struct tempos_uses *all = bpf_map_lookup_elem(&uses, &only);

	if (all && door < DOORS && wanted_here())
		all->times[door]++;
}

SEC("?tp_btf/sys_exit")
int BPF_PROG(tempos_called, struct pt_regs *registers, long result)
{
	struct call call;

	if (is_ours(&call, registers) && !is_begun_anew(result))
		used(call.kind);
	return 0;
}

SEC("?tp_btf/sock_send_length")
int BPF_PROG(tempos_sent)
{
	used(SENT);
	return 0;
}

SEC("?tp_btf/sock_recv_length")
int BPF_PROG(tempos_received)
{
	used(RECEIVED);
	return 0;
}
