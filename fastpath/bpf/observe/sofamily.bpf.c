/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * New connections by the process and its family of addresses: each connect, whatever comes of it, by the family of
 * the address that it was given; each accept that gave a socket, by the socket's.
 */
#include "observe.h"
#include "joins.h"

#define MAX_ROWS 16384
#define AF_UNSPEC 0

struct tempos_family {
	__u32 call;    /* CONNECT or ACCEPT */
	__u32 family;
	char comm[COMM_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ROWS);
	__type(key, struct tempos_family);
	__type(value, __u64);
} families SEC(".maps");

__u64 lost_connections = 0;

SEC("?tp_btf/sys_exit")
int BPF_PROG(tempos_joined, struct pt_regs *registers, long result)
{
	struct tempos_family key = {};
	__u16 family = AF_UNSPEC;
	struct sock *sock;
	struct call call;

	if (!is_ours(&call, registers) || is_begun_anew(result) || !wanted_here())
		return 0;
	sock = joined(&call, result);
	if (call.kind == ACCEPT && !sock)
		return 0;
	if (call.kind == ACCEPT ||
	    bpf_probe_read_user(&family, sizeof(family), (const void *)argument(&call, 1)))
		family = BPF_CORE_READ(sock, __sk_common.skc_family);
	key.call = call.kind;
	key.family = family;
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	if (!count(&families, &key, 1))
		__sync_fetch_and_add(&lost_connections, 1);
	return 0;
}
