/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every TCP connect of every process: how long from the SYN until it was established, or why it failed; and, where
 * that is asked for, what became of the connection.
 *
 *   inet_sock_set_state   CLOSE -> SYN_SENT          in connect(), so the process at hand is the one: remembered
 *                         SYN_SENT -> ESTABLISHED    the answer is there
 *                         SYN_SENT -> CLOSE          it failed, with the socket's error
 *                         ... -> CLOSE               it is over (`whole`)
 *   sys_exit of connect   what failed before there was a SYN: no route, no port, no permission
 *   sk_data_ready         data has come (`whole`): is it the first of an answer?
 *   iterator              the connections that are still there (`whole`)
 *
 * Later transitions run in whatever context the packet came in: on loopback that is the other end's. So who it is
 * is kept with the socket (socket storage, gone with it), from the first one on; passive opens are not looked at.
 *
 * An answer is the first data after something more of what we sent was acknowledged. How long it took is counted
 * from when the kernel sent the last segment that is acknowledged by then (RACK keeps that time, microseconds).
 */
#include "calls.h"
#include "files.h"
#include "sockets.h"

#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_CLOSE 7
#define V4_HEADER 20
#define V6_HEADER 40
#define NS_OF_US 1000

#define EINTR 4
#define EISCONN 106
#define ETIMEDOUT 110
#define ECONNRESET 104
#define ECONNREFUSED 111
#define EALREADY 114
#define EINPROGRESS 115
#define MAX_ATTEMPTS 16384
#define FIRST_ARGUMENT 0
#define ADDRESS_ARGUMENT 1

const volatile bool whole = false;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct tcp_rack {
	__u64 mstamp;
};

struct tcp_sock {
	__u64 bytes_sent;      /* payload, what was sent again too */
	__u64 bytes_retrans;
	__u64 bytes_acked;     /* SYN and FIN count one each */
	__u64 bytes_received;  /* in order; FIN counts one */
	__u32 segs_in;
	__u32 segs_out;
	__u32 srtt_us;         /* times 8 */
	__u32 mdev_us;         /* times 4 */
	__u16 tcp_header_len;
	struct tcp_rack rack;
};

struct inet_sock {
	__be16 inet_sport;
};

/* The bits of sock_common that are of interest. */
struct sock_common___flags {
	unsigned long skc_flags;
};

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
};

#pragma clang attribute pop

enum sock_flags {
	SOCK_DONE = 1,
};

struct opener {
	__u64 begun_ns;
	__u64 established_ns;
	__u64 acked;           /* bytes_acked when the last answer began */
	__u64 answers;
	__u64 answer_ns;
	__u64 answer_max_ns;
	__u32 pid;
	char comm[COMM_LEN];
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct opener);
} openers SEC(".maps");

struct tempos_connection {
	struct tempos_ends ends;
	__u64 begun_ns;
	__u64 established_ns;
	__u64 now_ns;
	__u64 sent;            /* payload, acknowledged */
	__u64 received;        /* payload */
	__u64 wire_sent;       /* with headers, and what was sent again */
	__u64 wire_received;
	__u64 answers;
	__u64 answer_ns;
	__u64 answer_max_ns;
	__u32 srtt_us;
	__u32 mdev_us;
	__u32 pid;
	__u32 namespace;
	__u32 error;
	__u8 over;
	__u8 pad[3];
	char comm[COMM_LEN];
};

SHOWN(tempos_connection);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} connections SEC(".maps");

__u64 lost_connections = 0;
__u64 caught_tempos_state = 0;

/* What a thread that is in connect() has done there so far. */
struct attempt {
	__u64 socket;      /* that a SYN is to be sent by */
	__u64 came_to_nothing;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_ATTEMPTS);
	__type(key, __u64);
	__type(value, struct attempt);
} attempts SEC(".maps");

static __always_inline void describe(struct tempos_connection *to, const struct sock *sk, const struct opener *opener)
{
	const struct tcp_sock *tcp = (const void *)sk;
	__u64 flags = BPF_CORE_READ((const struct sock_common___flags *)sk, skc_flags);
	__u64 acked = BPF_CORE_READ(tcp, bytes_acked);
	__u64 payload = BPF_CORE_READ(tcp, bytes_sent) - BPF_CORE_READ(tcp, bytes_retrans);
	__u64 received = BPF_CORE_READ(tcp, bytes_received);
	__u32 header = BPF_CORE_READ(tcp, tcp_header_len);

	__builtin_memset(to, 0, sizeof(*to));
	ends_of(sk, &to->ends);
	/* Once it is closed its port is given back; what it was stands here. */
	if (!to->ends.local_port)
		to->ends.local_port = bpf_ntohs(BPF_CORE_READ((const struct inet_sock *)sk, inet_sport));
	header += to->ends.family == AF_INET6 ? V6_HEADER : V4_HEADER;
	to->begun_ns = opener->begun_ns;
	to->established_ns = opener->established_ns;
	to->now_ns = bpf_ktime_get_ns();
	/* Of what is acknowledged one is the SYN; the FIN, if it is, lies beyond what was sent of payload. */
	acked -= acked > 0;
	to->sent = acked < payload ? acked : payload;
	if (flags & (1UL << bpf_core_enum_value(enum sock_flags, SOCK_DONE)))
		received -= received > 0;
	to->received = received;
	to->wire_sent = BPF_CORE_READ(tcp, bytes_sent) + (__u64)BPF_CORE_READ(tcp, segs_out) * header;
	to->wire_received = received + (__u64)BPF_CORE_READ(tcp, segs_in) * header;
	to->answers = opener->answers;
	to->answer_ns = opener->answer_ns;
	to->answer_max_ns = opener->answer_max_ns;
	to->srtt_us = BPF_CORE_READ(tcp, srtt_us) >> 3;
	to->mdev_us = BPF_CORE_READ(tcp, mdev_us) >> 2;
	to->pid = opener->pid;
	__builtin_memcpy(to->comm, opener->comm, COMM_LEN);
	to->namespace = namespace_of(sk);
}

static __always_inline void tell(const struct sock *sk, const struct opener *opener, int error, bool over)
{
	struct tempos_connection *record = bpf_ringbuf_reserve(&connections, sizeof(*record), 0);

	if (!record) {
		__sync_fetch_and_add(&lost_connections, 1);
		return;
	}
	describe(record, sk, opener);
	record->error = error;
	record->over = over;
	submit(&connections, record);
}

static __always_inline void begin(const struct sock *sk)
{
	struct attempt attempt = {.socket = (__u64)sk};
	__u64 thread = bpf_get_current_pid_tgid();
	__u32 pid = wanted_here();
	struct opener *opener;

	if (!pid)
		return;
	opener = bpf_sk_storage_get(&openers, (void *)sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!opener) {
		__sync_fetch_and_add(&lost_connections, 1);
		return;
	}
	/* A socket may be used again. */
	__builtin_memset(opener, 0, sizeof(*opener));
	opener->pid = pid;
	bpf_get_current_comm(opener->comm, sizeof(opener->comm));
	opener->begun_ns = bpf_ktime_get_ns();
	bpf_map_update_elem(&attempts, &thread, &attempt, BPF_ANY);
}

/* Whether a socket is closed without an error by the connect() that is still under way: that will tell why. */
static __always_inline bool is_told_later(const struct sock *sk)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct attempt *attempt = bpf_map_lookup_elem(&attempts, &thread);

	if (!attempt || attempt->socket != (__u64)sk)
		return false;
	attempt->came_to_nothing = true;
	return true;
}

static __always_inline void changed(const struct sock *sk, int before, int after)
{
	struct opener *opener;

	if (sk->sk_protocol != IPPROTO_TCP)
		return;
	if (after == TCP_SYN_SENT) {
		begin(sk);
		return;
	}
	if (before != TCP_SYN_SENT && !(whole && after == TCP_CLOSE))
		return;
	opener = bpf_sk_storage_get(&openers, (void *)sk, NULL, 0);
	if (!opener || !opener->begun_ns)
		return;
	if (after == TCP_CLOSE) {
		int error = before == TCP_SYN_SENT ? BPF_CORE_READ(sk, sk_err) : 0;

		if (before != TCP_SYN_SENT || error || !is_told_later(sk))
			tell(sk, opener, error, true);
		bpf_sk_storage_delete(&openers, (void *)sk);
	} else if (after == TCP_ESTABLISHED) {
		opener->established_ns = bpf_ktime_get_ns();
		opener->acked = BPF_CORE_READ((const struct tcp_sock *)sk, bytes_acked);
		if (!whole)
			tell(sk, opener, 0, false);
	}
}

SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(tempos_state, const struct sock *sk, int before, int after)
{
	set_amid(true);
	changed(sk, before, after);
	set_amid(false);
	return 0;
}

SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(tempos_state_amid, const struct sock *sk, int before, int after)
{
	if (!is_amid())
		return 0;
	__sync_fetch_and_add(&caught_tempos_state, 1);
	changed(sk, before, after);
	return 0;
}

/* Whether a result of connect() is the end of an attempt that no transition of the socket told of. */
static __always_inline bool is_failure(long result)
{
	switch (-result) {
	case EINTR:
	case EISCONN:
	case EALREADY:
	case EINPROGRESS:
	/* These need a SYN: one of an earlier connect(), if none of this. */
	case ECONNREFUSED:
	case ECONNRESET:
	case ETIMEDOUT:
		return false;
	}
	return result < 0 && !is_begun_anew(result);
}

static __always_inline void where_to(struct tempos_ends *ends, const void *address)
{
	struct sockaddr_in6 to = {};

	bpf_probe_read_user(&to, sizeof(struct sockaddr_in), address);
	ends->family = to.sin6_family;
	ends->remote_port = bpf_ntohs(to.sin6_port);
	if (to.sin6_family == AF_INET) {
		const struct sockaddr_in *v4 = (const void *)&to;

		__builtin_memcpy(ends->remote, &v4->sin_addr, sizeof(v4->sin_addr));
	} else if (!bpf_probe_read_user(&to, sizeof(to), address)) {
		__builtin_memcpy(ends->remote, &to.sin6_addr, sizeof(to.sin6_addr));
	}
}

SEC("?tp_btf/sys_exit")
int BPF_PROG(tempos_connect_ended, struct pt_regs *registers, long result)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct tempos_connection *record;
	struct attempt *attempt;
	bool has_sent = false;
	struct call call;
	struct sock *sk;
	__u32 pid;

	if (!is_ours(&call, registers))
		return 0;
	sk = socket_of(argument(&call, FIRST_ARGUMENT));
	attempt = bpf_map_lookup_elem(&attempts, &thread);
	if (attempt) {
		has_sent = attempt->socket == (__u64)sk && !attempt->came_to_nothing;
		bpf_map_delete_elem(&attempts, &thread);
	}
	if (has_sent || !sk || !is_failure(result) || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	pid = wanted_here();
	if (!pid)
		return 0;
	record = bpf_ringbuf_reserve(&connections, sizeof(*record), 0);
	if (!record) {
		__sync_fetch_and_add(&lost_connections, 1);
		return 0;
	}
	__builtin_memset(record, 0, sizeof(*record));
	ends_of(sk, &record->ends);
	where_to(&record->ends, (const void *)argument(&call, ADDRESS_ARGUMENT));
	record->pid = pid;
	record->namespace = namespace_of(sk);
	record->error = -result;
	record->over = true;
	bpf_get_current_comm(record->comm, sizeof(record->comm));
	submit(&connections, record);
	return 0;
}

SEC("?tp_btf/sk_data_ready")
int BPF_PROG(tempos_answered, const struct sock *sk)
{
	const struct tcp_sock *tcp = (const void *)sk;
	struct opener *opener;
	__u64 acked, sent_ns, took;

	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	opener = bpf_sk_storage_get(&openers, (void *)sk, NULL, 0);
	if (!opener || !opener->established_ns)
		return 0;
	acked = BPF_CORE_READ(tcp, bytes_acked);
	if (acked <= opener->acked)
		return 0;
	opener->acked = acked;
	sent_ns = BPF_CORE_READ(tcp, rack.mstamp) * NS_OF_US;
	took = bpf_ktime_get_ns() - sent_ns;
	/* Without SACK the kernel keeps no such time. */
	if (!sent_ns || (__s64)took < 0)
		return 0;
	opener->answers++;
	opener->answer_ns += took;
	if (took > opener->answer_max_ns)
		opener->answer_max_ns = took;
	return 0;
}

SEC("?iter/bpf_sk_storage_map")
int tempos_connected(struct bpf_iter__bpf_sk_storage_map *context)
{
	struct tempos_connection record;
	struct sock *sk = context->sk;
	struct opener *opener = context->value;

	if (!sk || !opener || !opener->established_ns)
		return 0;
	describe(&record, sk, opener);
	bpf_seq_write(context->meta->seq, &record, sizeof(record));
	return 0;
}
