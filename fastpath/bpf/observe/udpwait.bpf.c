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
 *
 * Where packets are handled on another CPU than the reader's (RPS, or the sender's own), it may read one that is in the
 * buffer before that is told here. A thread reads in order, so what it reads next is at least the one behind; if that
 * is not told yet its wait stays unknown until it is, and then it was none. And a time belongs to a datagram only if it
 * says so itself: it may be that of one long ago.
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
	__u64 next;           /* what the thread that read last reads next, at least */
	__u64 thread;
	__u64 at_once;        /* read before they were told, which has happened since */
	__u64 at[MAX_WAITING]; /* by number: how often that place was used before, in the highest byte, and the time */
};

#define TIME_BITS 56
#define TIME_MASK ((1ULL << TIME_BITS) - 1)

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

/* Never 0, which is what an unused place has. */
static __always_inline __u64 turn_of(__u64 number)
{
	return number / MAX_WAITING % 255 + 1;
}

static __always_inline __u64 left_in(const struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_receive_queue.qlen) + BPF_CORE_READ((const struct udp_sock *)sk, reader_queue.qlen);
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
	arrivals->at[number % MAX_WAITING] = turn_of(number) << TIME_BITS | (bpf_ktime_get_ns() & TIME_MASK);
	if (number >= arrivals->next)
		return 0;
	/* It has been read already; or it is still there, and what was read in its place came without being told. */
	if (left_in(sk))
		arrivals->next = number;
	else
		__sync_fetch_and_add(&arrivals->at_once, 1);
	return 0;
}

/* How long the datagram that was just read has waited, if so many are left; negative: not known. */
static __always_inline __s64 waited(struct arrivals *arrivals, __u64 left)
{
	__u64 thread = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns(), count = arrivals->count;
	__u64 number, at, wait_ns;

	/* The one that was read is that before all that are left. */
	if (left >= count || left >= MAX_WAITING)
		return -1;
	number = count - left - 1;
	if (arrivals->thread == thread && number < arrivals->next)
		number = arrivals->next;
	arrivals->thread = thread;
	arrivals->next = number + 1;
	at = arrivals->at[number % MAX_WAITING];
	if (number >= count)
		return -1;
	wait_ns = (now - at) & TIME_MASK;
	/* It is being told just now. */
	return at >> TIME_BITS != turn_of(number) || wait_ns > TIME_MASK / 2 ? 0 : wait_ns;
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
	__u32 pid, bucket;
	__u64 at_once;
	__s64 wait_ns;

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
	if (!arrivals)
		return 0;
	at_once = arrivals->at_once;
	if (at_once) {
		__sync_fetch_and_sub(&arrivals->at_once, at_once);
		__sync_fetch_and_add(&waits->buckets[0], at_once);
	}
	wait_ns = waited(arrivals, left_in(sk));
	if (wait_ns < 0)
		return 0;
	__sync_fetch_and_add(&waits->wait_ns, wait_ns);
	if ((__u64)wait_ns > waits->longest_ns)
		waits->longest_ns = wait_ns;
	bucket = bucket_of((__u64)wait_ns / NS_OF_US);
	if (bucket < BUCKETS)
		__sync_fetch_and_add(&waits->buckets[bucket], 1);
	return 0;
}
