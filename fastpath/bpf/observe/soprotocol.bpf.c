/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * New connections by the process and the protocol of its socket: each connect of a socket, whatever comes of it, and
 * each accept that gave one.
 */
#include "observe.h"
#include "joins.h"

#define MAX_ROWS 16384
#define PROTOCOL_LEN 32

struct tempos_protocol {
	__u32 call;     /* CONNECT or ACCEPT */
	__u16 family;
	__u16 protocol;
	char comm[COMM_LEN];
	char name[PROTOCOL_LEN]; /* as the kernel calls it: TCP, UDPv6, UNIX-STREAM */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ROWS);
	__type(key, struct tempos_protocol);
	__type(value, __u64);
} protocols SEC(".maps");

__u64 lost_connections = 0;

SEC("?tp_btf/sys_exit")
int BPF_PROG(tempos_joined, struct pt_regs *registers, long result)
{
	struct tempos_protocol key = {};
	struct sock *sock;
	struct call call;

	if (!is_ours(&call, registers) || is_begun_anew(result) || !wanted_here())
		return 0;
	sock = joined(&call, result);
	if (!sock)
		return 0;
	key.call = call.kind;
	key.family = BPF_CORE_READ(sock, __sk_common.skc_family);
	key.protocol = BPF_CORE_READ(sock, sk_protocol);
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	bpf_probe_read_kernel_str(key.name, sizeof(key.name), BPF_CORE_READ(sock, __sk_common.skc_prot)->name);
	if (!count(&protocols, &key, 1))
		__sync_fetch_and_add(&lost_connections, 1);
	return 0;
}
