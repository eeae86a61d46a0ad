/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How long datagrams wait in a socket's buffer before a process reads them.
 *
 *   sk_data_ready      a datagram has been put into the buffer: its time is noted with the socket
 *   sock_recv_length   one was read: it was the oldest
 *
 * The buffer is a queue, so the times of its datagrams are one, too. Which of them the one that was read had follows
 * from how many are left, not from how many were read: so nothing goes astray for good that leaves the buffer
 * otherwise (a bad checksum), and what was there before the tool began is known as unknown.
 *
 * A reader that empties two queues at once takes from the kernel's second one first: both together are the buffer.
 */
#include "sockets.h"

#define MAX_ROWS 16384
#define BUCKETS 40
#define NS_OF_US 1000
/* Datagrams of one socket whose time is known: as many as may wait. */
#define MAX_WAITING 4096

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct udp_sock {
	struct sk_buff_head reader_queue;
};

#pragma clang attribute pop

struct arrivals {
	__u64 count;
	__u64 at_ns[MAX_WAITING];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct arrivals);
} waiting SEC(".maps");

struct tempos_reader {
	__u32 pid;
	__u32 namespace;
	__u16 port;
	__u16 pad[3];
};

struct tempos_waits {
	__u64 read;
	__u64 unknown;         /* they were there before the tool began, or more waited than are kept in mind */
	__u64 wait_ns;
	__u64 longest_ns;
	__u64 buckets[BUCKETS]; /* of microseconds */
	char comm[COMM_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ROWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tempos_reader);
	__type(value, struct tempos_waits);
} waits SEC(".maps");

/* What a new row begins with: too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tempos_waits);
} empty SEC(".maps");

__u64 lost_datagrams_for_want_of_room = 0;

static __always_inline bool is_udp(const struct sock *sk)
{
	unsigned short family = sk->__sk_common.skc_family;

	return sk->sk_protocol == IPPROTO_UDP && (family == AF_INET || family == AF_INET6);
}

SEC("?tp_btf/sk_data_ready")
int BPF_PROG(tempos_arrived, const struct sock *sk)
{
	struct arrivals *arrivals;
	__u64 number;

	if (!is_udp(sk))
		return 0;
	arrivals = bpf_sk_storage_get(&waiting, (void *)sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!arrivals) {
		__sync_fetch_and_add(&lost_datagrams_for_want_of_room, 1);
		return 0;
	}
	number = __sync_fetch_and_add(&arrivals->count, 1);
	arrivals->at_ns[number % MAX_WAITING] = bpf_ktime_get_ns();
	return 0;
}

static __always_inline struct tempos_waits *waits_of(const struct sock *sk, __u32 pid)
{
	struct tempos_reader key = {.pid = pid, .namespace = namespace_of(sk)};
	struct tempos_waits *found, *none;
	const __u32 only = 0;

	key.port = sk->__sk_common.skc_num;
	found = bpf_map_lookup_elem(&waits, &key);
	if (found)
		return found;
	none = bpf_map_lookup_elem(&empty, &only);
	if (!none)
		return NULL;
	bpf_get_current_comm(none->comm, sizeof(none->comm));
	bpf_map_update_elem(&waits, &key, none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&waits, &key);
}

SEC("?tp_btf/sock_recv_length")
int BPF_PROG(tempos_read, struct sock *sk, int length, int flags)
{
	struct arrivals *arrivals;
	struct tempos_waits *waits;
	__u64 count, left, wait_ns;
	__u32 pid, bucket;

	if (!is_udp(sk) || length < 0 || flags & MSG_PEEK)
		return 0;
	pid = wanted_here();
	if (!pid)
		return 0;
	waits = waits_of(sk, pid);
	if (!waits) {
		__sync_fetch_and_add(&lost_datagrams_for_want_of_room, 1);
		return 0;
	}
	__sync_fetch_and_add(&waits->read, 1);
	arrivals = bpf_sk_storage_get(&waiting, sk, NULL, 0);
	count = arrivals ? arrivals->count : 0;
	left = BPF_CORE_READ(sk, sk_receive_queue.qlen) + BPF_CORE_READ((struct udp_sock *)sk, reader_queue.qlen);
	/* The one that was read is that before all that are left. */
	if (!arrivals || left >= count || left >= MAX_WAITING) {
		__sync_fetch_and_add(&waits->unknown, 1);
		return 0;
	}
	wait_ns = bpf_ktime_get_ns() - arrivals->at_ns[(count - left - 1) % MAX_WAITING];
	/* One that is being put there just now is left already, and has no time yet. */
	if ((__s64)wait_ns < 0)
		wait_ns = 0;
	__sync_fetch_and_add(&waits->wait_ns, wait_ns);
	if (wait_ns > waits->longest_ns)
		waits->longest_ns = wait_ns;
	bucket = bucket_of(wait_ns / NS_OF_US);
	if (bucket < BUCKETS)
		__sync_fetch_and_add(&waits->buckets[bucket], 1);
	return 0;
}
