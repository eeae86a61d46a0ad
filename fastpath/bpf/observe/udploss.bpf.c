/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which UDP socket lost how many datagrams, and why.
 *
 *   kfree_skb               the kernel throws a packet away and says why; from 6.11 on also which socket it was for
 *   udp_fail_queue_rcv_skb  before that, of a full receive buffer, which socket; then the first one, tempos_thrown,
 *                           leaves out what this one counts
 *
 * A buffer may hold many datagrams (GRO, GSO): each of them counts. A loss is booked on the socket, on none where
 * there is none; whose that is is looked up when somebody reads. Costs nothing while nothing is lost.
 */
#include "sockets.h"

#define MAX_ROWS 65536

struct tempos_loss {
	struct tempos_ends ends;   /* the local one, of a socket; without one what the packet says */
	__u64 inode;
	__u32 namespace;
	__u32 reason;
	__u8 sent;                 /* lost on the way out */
	__u8 pad[7];
};

struct tempos_lost {
	__u64 datagrams;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ROWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tempos_loss);
	__type(value, struct tempos_lost);
} losses SEC(".maps");

__u64 lost_losses_for_want_of_room = 0;

static __always_inline void count(const struct tempos_loss *key, const struct sk_buff *skb, __u32 datagrams)
{
	const struct tempos_lost none = {};
	struct tempos_lost *counted = bpf_map_lookup_elem(&losses, key);

	if (!counted) {
		bpf_map_update_elem(&losses, key, &none, BPF_NOEXIST);
		counted = bpf_map_lookup_elem(&losses, key);
	}
	if (!counted) {
		__sync_fetch_and_add(&lost_losses_for_want_of_room, datagrams);
		return;
	}
	__sync_fetch_and_add(&counted->datagrams, datagrams);
	if (skb)
		__sync_fetch_and_add(&counted->bytes, BPF_CORE_READ(skb, len));
}

static __always_inline void of_socket(struct tempos_loss *key, const struct sock *sk)
{
	ends_of(sk, &key->ends);
	/* With whom it talks makes no other row: a server's socket may talk to thousands. */
	__builtin_memset(key->ends.remote, 0, sizeof(key->ends.remote));
	key->ends.remote_port = 0;
	key->inode = inode_of(sk);
	key->namespace = namespace_of(sk);
}

__u64 caught_tempos_thrown_for = 0;

static __always_inline void thrown(const struct sk_buff *skb, __u32 reason, const struct sock *receiver)
{
	struct tempos_loss key = {.reason = reason};
	struct packet packet = {};
	const struct sock *sk = receiver;

	if (reason == bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_OTHERHOST))
		return;
	if (!read_packet(skb, &packet) || packet.protocol != IPPROTO_UDP)
		return;
	if (!sk)
		sk = BPF_CORE_READ(skb, sk);
	if (sk) {
		__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

		/* What somebody listens in on has not lost what was not for him. */
		if ((family != AF_INET && family != AF_INET6) || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_UDP)
			return;
		of_socket(&key, sk);
		/* Wherever it is lost: to the sender's socket it was sent. */
		key.sent = !receiver && key.ends.local_port == packet.source_port &&
			   (packet.source_port != packet.destination_port || !BPF_CORE_READ(skb, skb_iif));
	} else {
		key.sent = !BPF_CORE_READ(skb, skb_iif);
		key.ends.family = packet.family;
		key.ends.local_port = key.sent ? packet.source_port : packet.destination_port;
		__builtin_memcpy(key.ends.local, key.sent ? packet.source : packet.destination, ADDRESS_LEN);
		key.namespace = BPF_CORE_READ(skb, dev, nd_net.net, ns.inum);
	}
	count(&key, skb, datagrams_in(skb));
}

/* From 6.11 on. */
SEC("?tp_btf/kfree_skb")
int BPF_PROG(tempos_thrown_for, struct sk_buff *skb, void *where, enum skb_drop_reason reason,
	     struct sock *receiver)
{
	set_amid(true);
	thrown(skb, reason, receiver);
	set_amid(false);
	return 0;
}

SEC("?tp_btf/kfree_skb")
int BPF_PROG(tempos_thrown_for_amid, struct sk_buff *skb, void *where, enum skb_drop_reason reason,
	     struct sock *receiver)
{
	if (!is_amid())
		return 0;
	__sync_fetch_and_add(&caught_tempos_thrown_for, 1);
	thrown(skb, reason, receiver);
	return 0;
}

/*
 * What the two programs for older kernels tell each other of the one packet at hand: for a full buffer one of them
 * knows the packet, the other the socket. Which of them runs first differs, and before 6.6 the second does not run at
 * all for IPv6: then the loss stays booked on the packet's port, without a process.
 */
struct between {
	struct tempos_loss booked;   /* of IPv6, by the first */
	__u32 datagrams;             /* how many; 0: the first did not book any */
	__u8 by_packet;              /* the first has been here, and the second not yet */
	__u8 by_socket;              /* the second has been here before the first, and has booked it */
	__u8 pad[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct between);
} between SEC(".maps");

static __always_inline struct between *between_here(void)
{
	const __u32 only = 0;

	return bpf_map_lookup_elem(&between, &only);
}

static __always_inline void full_by_packet(const struct sk_buff *skb, __u32 reason)
{
	struct between *here = between_here();
	struct packet packet = {};

	if (!here || !read_packet(skb, &packet) || packet.protocol != IPPROTO_UDP)
		return;
	here->datagrams = 0;
	if (here->by_socket) {
		here->by_socket = false;
		return;
	}
	here->by_packet = true;
	if (packet.family != AF_INET6)
		return;
	__builtin_memset(&here->booked, 0, sizeof(here->booked));
	here->booked.reason = reason;
	here->booked.ends.family = packet.family;
	here->booked.ends.local_port = packet.destination_port;
	__builtin_memcpy(here->booked.ends.local, packet.destination, ADDRESS_LEN);
	here->datagrams = datagrams_in(skb);
	count(&here->booked, skb, here->datagrams);
}

SEC("?tp_btf/kfree_skb")
int BPF_PROG(tempos_thrown, struct sk_buff *skb, void *where, enum skb_drop_reason reason)
{
	if (reason != bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_SOCKET_RCVBUFF) &&
	    reason != bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_PROTO_MEM))
		thrown(skb, reason, NULL);
	else
		full_by_packet(skb, reason);
	return 0;
}

/* The packet is no argument before 6.8: one loss is one buffer, unless the other program has counted what is in it. */
SEC("?tp_btf/udp_fail_queue_rcv_skb")
int BPF_PROG(tempos_full, int error, struct sock *sk)
{
	const int no_memory = -12;
	struct between *here = between_here();
	__u32 datagrams = 1;
	struct tempos_loss key = {
		.reason = error == no_memory
				  ? bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_SOCKET_RCVBUFF)
				  : bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_PROTO_MEM),
	};

	of_socket(&key, sk);
	if (here && here->datagrams && here->booked.ends.local_port == key.ends.local_port) {
		struct tempos_lost *booked = bpf_map_lookup_elem(&losses, &here->booked);

		datagrams = here->datagrams;
		if (booked)
			__sync_fetch_and_add(&booked->datagrams, -(__u64)datagrams);
	}
	if (here) {
		here->by_socket = !here->by_packet;
		here->by_packet = false;
		here->datagrams = 0;
	}
	count(&key, NULL, datagrams);
	return 0;
}
