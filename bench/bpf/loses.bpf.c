// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A link that loses: LOSS of a million datagrams between a client and a broker, either way, at random.
 *
 * Which events are lost the first time follows from their numbers (lost_at, and its twin in measure/lossy.py), so
 * that whoever gets them knows which had to be repaired. What is sent again, and control, is lost at random. DOUBLE of a
 * million events come twice; MIX of a million are held until up to AHEAD others have overtaken them, one at a time.
 *
 *   to_broker, from_broker   tc programs at the client's interface
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define DATA_PORT 9998
#define CONTROL_PORT 9997
#define DUP 2
#define MILLION 1000000
#define UDP_AT (sizeof(struct ethhdr) + sizeof(struct iphdr))
#define PAYLOAD_AT (UDP_AT + sizeof(struct udphdr))
/* Put on what this has sent itself, so that it goes on as it is. */
#define DONE 0x7e31
#define AHEAD 4
#define MOST 2047

#ifndef LOSS
#define LOSS 0
#endif
#ifndef DOUBLE
#define DOUBLE 0
#endif
#ifndef MIX
#define MIX 0
#endif

struct head {
	__u8 topic;
	__u8 version_flags;
	__u16 rest;
	__be32 publisher;
	__be32 sequence;
};

static __always_inline __u32 lost_at(__u32 sequence, __u32 port)
{
	__u32 x = sequence * 2654435761U + port;

	x ^= x >> 16;
	x *= 0x85ebca6bU;
	x ^= x >> 13;
	x *= 0xc2b2ae35U;
	x ^= x >> 16;
	return x % MILLION;
}

static __always_inline int at_random(__u32 of_a_million)
{
	return bpf_get_prandom_u32() % MILLION < of_a_million;
}

#if MIX
struct frame {
	__u32 length;
	__u32 ahead;
	__u8 bytes[MOST + 1];
};

/* What is held of either way, and room for one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, struct frame);
} frames SEC(".maps");

static __always_inline int load(struct __sk_buff *skb, struct frame *into)
{
	__u32 length = skb->len & MOST;

	if (!length || length != skb->len || bpf_skb_load_bytes(skb, 0, into->bytes, length))
		return 0;
	into->length = length;
	return 1;
}

static __always_inline int store(struct __sk_buff *skb, const struct frame *from)
{
	__u32 length = skb->len & MOST;

	return length && !bpf_skb_store_bytes(skb, 0, from->bytes, length, 0);
}

/* Hold it, have what is held follow it, or leave it alone. What is sent by ourselves at ingress comes later, at egress now. */
static __always_inline int mix(struct __sk_buff *skb, int egress)
{
	__u32 own = egress, spare = 2;
	struct frame *held = bpf_map_lookup_elem(&frames, &own), *room = bpf_map_lookup_elem(&frames, &spare);

	if (!held || !room)
		return TC_ACT_OK;
	if (!held->length) {
		if (!at_random(MIX) || !load(skb, held))
			return TC_ACT_OK;
		held->ahead = 1 + bpf_get_prandom_u32() % AHEAD;
		return TC_ACT_SHOT;
	}
	if (held->ahead > 1) {
		held->ahead--;
		return TC_ACT_OK;
	}
	if (held->length != skb->len)
		return TC_ACT_OK;
	held->length = 0;
	skb->mark = DONE;
	if (egress) {
		bpf_clone_redirect(skb, skb->ifindex, 0);
		store(skb, held);
	} else if (load(skb, room)) {
		store(skb, held);
		bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
		store(skb, room);
	}
	return TC_ACT_OK;
}

#else
#define mix(skb, egress) TC_ACT_OK
#endif

static __always_inline int event(struct __sk_buff *skb, __u32 port, int egress)
{
	struct head head;

	if (skb->mark == DONE || bpf_skb_load_bytes(skb, PAYLOAD_AT, &head, sizeof(head)))
		return TC_ACT_OK;
	if (!head.topic || head.version_flags & DUP ? at_random(LOSS) : lost_at(bpf_ntohl(head.sequence), port) < LOSS)
		return TC_ACT_SHOT;
	if (DOUBLE && egress && at_random(DOUBLE)) {
		skb->mark = DONE;
		bpf_clone_redirect(skb, skb->ifindex, 0);
		return TC_ACT_OK;
	}
	return head.topic ? mix(skb, egress) : TC_ACT_OK;
}

static __always_inline int ports(struct __sk_buff *skb, struct udphdr *udp)
{
	return skb->protocol == bpf_htons(ETH_P_IP) && !bpf_skb_load_bytes(skb, UDP_AT, udp, sizeof(*udp));
}

SEC("tc/to_broker")
int to_broker(struct __sk_buff *skb)
{
	struct udphdr udp;

	if (!ports(skb, &udp))
		return TC_ACT_OK;
	if (udp.dest == bpf_htons(DATA_PORT))
		return event(skb, 0, 1);
	return udp.dest == bpf_htons(CONTROL_PORT) && at_random(LOSS) ? TC_ACT_SHOT : TC_ACT_OK;
}

SEC("tc/from_broker")
int from_broker(struct __sk_buff *skb)
{
	struct udphdr udp;

	if (!ports(skb, &udp))
		return TC_ACT_OK;
	if (udp.source == bpf_htons(DATA_PORT))
		return event(skb, bpf_ntohs(udp.dest), 0);
	return udp.source == bpf_htons(CONTROL_PORT) && at_random(LOSS) ? TC_ACT_SHOT : TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
