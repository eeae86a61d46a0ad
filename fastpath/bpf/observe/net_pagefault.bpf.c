/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which processes use the network, in which role and with whom; and what page faults, processor time and waiting
 * those processes had meanwhile.
 *
 *   inet_sock_set_state   CLOSE -> SYN_SENT: a connect, in the context of who makes it
 *   sys_exit              accept: the socket that it gave; recvfrom, recvmsg, recvmmsg: from whom a datagram is
 *   net_dev_queue         a packet of a socket leaves: UDP with its destination, and all that is neither TCP nor UDP
 *   sock_recv_length      datagrams that were read otherwise (read, io_uring)
 *
 * A packet that had to wait for its neighbour's address leaves in anybody's context: whose socket it is is then found
 * by its inode.
 */
#include "calls.h"
#include "files.h"
#include "sockets.h"
#include "users.h"

#define MAX_USES 65536
#define TCP_SYN_SENT 2
#define UDP_HEADER 8
#define DST_POINTER (~3UL)
#define MAX_MESSAGES 1024
#define FIRST_ARGUMENT 0

/* Whether recvfrom, recvmsg and recvmmsg are seen as they end. */
const volatile bool has_calls = false;

/* What a call is to us: the number in `calls`. */
enum { CALL_ACCEPT = 1, CALL_RECVFROM, CALL_RECVMSG, CALL_RECVMMSG, CALL_SEND };

enum { CONNECT, ACCEPT, SENT, RECEIVED, OTHER };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct dst_entry {
	struct net_device *dev;
};

struct sk_buff___data {
	unsigned char *data;
};

#pragma clang attribute pop

struct tempos_use {
	struct tempos_ends ends;
	__u64 inode;        /* of the socket, where it is not known whose it is */
	__u32 pid;          /* 0: not known */
	__u32 namespace;
	__u16 protocol;     /* of OTHER: behind the IP header; of a packet socket the frame's type, by `frame` */
	__u8 what;
	__u8 frame;
	__u8 pad[4];
};

struct tempos_used {
	struct tempos_use key;
	__u64 times;        /* 0: nothing yet */
	__u64 bytes;
	char comm[COMM_LEN];
};

/* As they came: user space has it in its memory, and reads as many as there are. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_USES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct tempos_used);
} uses SEC(".maps");

/* Their places there. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_USES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tempos_use);
	__type(value, __u32);
} uses_at SEC(".maps");

__u64 lost_uses_for_want_of_room = 0;

static __always_inline struct tempos_used *used_by(const struct tempos_use *key)
{
	__u32 *at = bpf_map_lookup_elem(&uses_at, key);

	return at ? bpf_map_lookup_elem(&uses, at) : NULL;
}

static __always_inline struct tempos_used *first_used_by(const struct tempos_use *key)
{
	struct tempos_filled *count = filled_now();
	__u32 at = count ? one_more(&count->uses, MAX_USES) : MAX_USES;
	struct tempos_used *used = bpf_map_lookup_elem(&uses, &at);

	if (!used)
		return NULL;
	used->key = *key;
	if (key->pid) {
		bpf_get_current_comm(used->comm, sizeof(used->comm));
		add_user(bpf_get_current_task_btf());
	}
	/* Where another CPU was first its place counts, and this one stays without a use. */
	return bpf_map_update_elem(&uses_at, key, &at, BPF_NOEXIST) ? used_by(key) : used;
}

static __always_inline void use(struct tempos_use *key, __u64 times, __u64 bytes)
{
	struct tempos_used *used = used_by(key);

	if (!used)
		used = first_used_by(key);
	if (!used) {
		__sync_fetch_and_add(&lost_uses_for_want_of_room, 1);
		return;
	}
	__sync_fetch_and_add(&used->times, times);
	__sync_fetch_and_add(&used->bytes, bytes);
}

static __always_inline bool is_ip(const struct sock *sk)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	return family == AF_INET || family == AF_INET6;
}

SEC("?tp_btf/inet_sock_set_state")
int BPF_PROG(tempos_connect, const struct sock *sk, int before, int after)
{
	struct tempos_use key = {.what = CONNECT};

	if (after != TCP_SYN_SENT || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	key.pid = wanted_here();
	if (!key.pid)
		return 0;
	ends_of(sk, &key.ends);
	/* It has a port by now or not: a client's is of no interest. */
	key.ends.local_port = 0;
	key.namespace = namespace_of(sk);
	use(&key, 1, 0);
	return 0;
}

static __always_inline void accepted(long result)
{
	struct tempos_use key = {.what = ACCEPT};
	struct sock *sk = result < 0 ? NULL : socket_of(result);

	if (!sk || !is_ip(sk) || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return;
	key.pid = wanted_here();
	if (!key.pid)
		return;
	ends_of(sk, &key.ends);
	key.ends.remote_port = 0;
	key.namespace = namespace_of(sk);
	use(&key, 1, 0);
}

/* Of a datagram that was read: on which socket, and from whom, as far as the process asked for that. */
struct reading {
	struct tempos_use key;
	const void *address;     /* the process's; NULL: it did not ask */
	const char *messages;    /* of recvmmsg */
};

static __always_inline bool begin_reading(struct reading *reading, const struct sock *sk)
{
	if (!sk || !is_ip(sk) || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_UDP)
		return false;
	reading->key.what = RECEIVED;
	reading->key.pid = wanted_here();
	if (!reading->key.pid)
		return false;
	ends_of(sk, &reading->key.ends);
	reading->key.ends.remote_port = 0;
	reading->key.namespace = namespace_of(sk);
	return true;
}

static __always_inline void from(struct tempos_ends *ends, const void *address)
{
	struct sockaddr_in6 whom = {};

	if (!address || bpf_probe_read_user(&whom, sizeof(struct sockaddr_in), address))
		return;
	if (whom.sin6_family == AF_INET) {
		const struct sockaddr_in *v4 = (const void *)&whom;

		__builtin_memset(ends->remote, 0, sizeof(ends->remote));
		__builtin_memcpy(ends->remote, &v4->sin_addr, sizeof(v4->sin_addr));
	} else if (whom.sin6_family == AF_INET6 && !bpf_probe_read_user(&whom, sizeof(whom), address)) {
		__builtin_memcpy(ends->remote, &whom.sin6_addr, sizeof(whom.sin6_addr));
	}
}

/* The begin of a process's struct msghdr and mmsghdr, 64 bits. */
struct message {
	__u64 name;
	__u32 name_length;
	__u32 pad;
	__u64 rest[5];
	__u32 length;
	__u32 pad_behind;
};

static long one_message(__u32 index, struct reading *reading)
{
	struct tempos_use key = reading->key;
	struct message message;

	if (bpf_probe_read_user(&message, sizeof(message), reading->messages + index * sizeof(message)))
		return 1;
	from(&key.ends, (const void *)message.name);
	use(&key, 1, message.length);
	return 0;
}

static __always_inline void read(const struct call *call, long result)
{
	struct reading reading = {};
	struct message message;
	__u64 flags = argument(call, call->kind == CALL_RECVMSG ? 2 : 3);

	if (result < 0 || call->narrow || flags & MSG_PEEK)
		return;
	if (!begin_reading(&reading, socket_of(argument(call, FIRST_ARGUMENT))))
		return;
	switch (call->kind) {
	case CALL_RECVMMSG:
		reading.messages = (const char *)argument(call, 1);
		bpf_loop(result < MAX_MESSAGES ? result : MAX_MESSAGES, one_message, &reading, 0);
		return;
	case CALL_RECVMSG:
		if (!bpf_probe_read_user(&message, offsetof(struct message, length), (const void *)argument(call, 1)))
			reading.address = (const void *)message.name;
		break;
	default:
		reading.address = (const void *)argument(call, 4);
	}
	from(&reading.key.ends, reading.address);
	use(&reading.key, 1, result);
}

SEC("?tp_btf/sys_exit")
int BPF_PROG(tempos_call_ended, struct pt_regs *registers, long result)
{
	struct call call;

	if (!is_ours(&call, registers))
		return 0;
	switch (call.kind) {
	case CALL_ACCEPT:
		accepted(result);
		break;
	case CALL_RECVFROM:
	case CALL_RECVMSG:
	case CALL_RECVMMSG:
		read(&call, result);
	}
	return 0;
}

/* The system call that the process at hand is in; false: none that is ours. */
static __always_inline bool call_at_hand(struct call *call)
{
	return is_ours(call, (const struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf()));
}

SEC("?tp_btf/sock_recv_length")
int BPF_PROG(tempos_received, struct sock *sk, int length, int flags)
{
	struct reading reading = {};
	struct call call;

	if (sk->sk_protocol != IPPROTO_UDP || length < 0 || flags & MSG_PEEK)
		return 0;
	/* What is told when that call ends, with the sender. */
	if (has_calls && call_at_hand(&call) && call.kind != CALL_SEND && !call.narrow)
		return 0;
	if (begin_reading(&reading, sk))
		use(&reading.key, 1, length);
	return 0;
}

static __always_inline __u32 payload_of(const struct sk_buff *skb, const unsigned char *transport, __u32 datagrams)
{
	const unsigned char *data = BPF_CORE_READ((const struct sk_buff___data *)skb, data);
	__be16 length = 0;

	if (datagrams > 1)
		return BPF_CORE_READ(skb, len) - (__u32)(transport - data) - UDP_HEADER;
	/* As the datagram says: a fragment is only its first part. */
	bpf_probe_read_kernel(&length, sizeof(length), transport + 4);
	return bpf_ntohs(length) - UDP_HEADER;
}

static __always_inline void sent_datagram(struct tempos_use *key, const struct sk_buff *skb)
{
	const unsigned char *transport = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, transport_header);
	__u32 datagrams = datagrams_in(skb);
	__be16 ports[2] = {};

	bpf_probe_read_kernel(ports, sizeof(ports), transport);
	key->what = SENT;
	key->ends.remote_port = bpf_ntohs(ports[1]);
	use(key, datagrams, payload_of(skb, transport, datagrams));
}

SEC("?tp_btf/net_dev_queue")
int BPF_PROG(tempos_leaves, struct sk_buff *skb)
{
	struct tempos_use key = {};
	struct packet packet = {};
	struct net_device *routed_by;
	struct sock *sk = skb->sk;
	struct call call;
	__u16 family;

	if (!sk)
		return 0;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (family == AF_INET || family == AF_INET6) {
		struct dst_entry *dst = (void *)(BPF_CORE_READ(skb, _skb_refdst) & DST_POINTER);

		if (BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP)
			return 0;
		/* What goes through several devices, one on the other, is counted at the one that it is routed to. */
		routed_by = BPF_CORE_READ(dst, dev);
		if (dst && routed_by != BPF_CORE_READ(skb, dev))
			return 0;
		/* The kernel's own answers in TCP leave by no socket of a connection. */
		if (!read_packet(skb, &packet) || packet.later || packet.protocol == IPPROTO_TCP)
			return 0;
		__builtin_memcpy(key.ends.local, packet.source, ADDRESS_LEN);
		__builtin_memcpy(key.ends.remote, packet.destination, ADDRESS_LEN);
		key.ends.family = packet.family;
		key.protocol = packet.protocol;
	} else if (family == AF_PACKET) {
		key.frame = 1;
		key.protocol = bpf_ntohs(BPF_CORE_READ(skb, protocol));
	} else {
		return 0;
	}
	key.namespace = namespace_of(sk);
	/* The kernel's own sockets (answers to pings) have no file; on loopback they send in the asker's context. */
	if (!BPF_CORE_READ(sk, sk_socket, file)) {
		key.pid = 0;
	} else if (call_at_hand(&call) && call.kind == CALL_SEND) {
		key.pid = wanted_here();
		if (!key.pid)
			return 0;
	} else {
		key.inode = inode_of(sk);
	}
	if (!key.frame && BPF_CORE_READ(sk, sk_protocol) == IPPROTO_UDP) {
		key.protocol = 0;
		sent_datagram(&key, skb);
	} else {
		key.what = OTHER;
		use(&key, 1, BPF_CORE_READ(skb, len));
	}
	return 0;
}
