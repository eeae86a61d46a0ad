/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How often processes write to sockets and read from them, and how many bytes, by process, direction and protocol.
 *
 * The kernel tells of each message that goes into a socket or comes out, by whatever system call, with what came of
 * it. One that failed is counted apart; so is a look at what stays in the socket (MSG_PEEK), which takes no bytes out.
 */
#include "counts.h"
#include "observe.h"

#define MAX_ROWS 16384
#define PROTOCOL_LEN 32

enum { WRITE, READ, PEEK };

struct tempos_user {
	__u32 pid;
	__u32 way;
	char comm[COMM_LEN];
	char protocol[PROTOCOL_LEN];
};

struct tempos_io {
	__u64 times;
	__u64 bytes;
	__u64 failed;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ROWS);
	__type(key, struct tempos_user);
	__type(value, struct tempos_io);
} users SEC(".maps");

__u64 lost_messages = 0;

static __always_inline int moved(const struct sock *sock, int result, __u32 way)
{
	const struct tempos_io none = {};
	struct tempos_user key = {.pid = wanted_here(), .way = way};
	struct tempos_io *io;

	if (!key.pid)
		return 0;
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	bpf_probe_read_kernel_str(key.protocol, sizeof(key.protocol), BPF_CORE_READ(sock, __sk_common.skc_prot)->name);
	io = (struct tempos_io *)counters_of(&users, &key, &none);
	if (!io) {
		__sync_fetch_and_add(&lost_messages, 1);
	} else if (result < 0) {
		__sync_fetch_and_add(&io->failed, 1);
	} else {
		__sync_fetch_and_add(&io->times, 1);
		if (way != PEEK)
			__sync_fetch_and_add(&io->bytes, result);
	}
	return 0;
}

SEC("?tp_btf/sock_send_length")
int BPF_PROG(tempos_sent, const struct sock *sock, int result)
{
	return moved(sock, result, WRITE);
}

SEC("?tp_btf/sock_recv_length")
int BPF_PROG(tempos_received, const struct sock *sock, int result, int flags)
{
	return moved(sock, result, flags & MSG_PEEK ? PEEK : READ);
}
