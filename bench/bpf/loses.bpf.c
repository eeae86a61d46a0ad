// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A link that loses: LOSS of a million datagrams between a client and a broker, either way, at random.
 *
 * Which events are lost the first time follows from their numbers (lost_at, and its twin in measure/lossy.py), so
 * that whoever gets them knows which had to be repaired. What is sent again, and control, is lost at random. DOUBLE of a
 * million events come twice.
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
/* Put on what was doubled, so that it is not once more. */
#define DOUBLED 0x7e31

#ifndef LOSS
#define LOSS 0
#endif
#ifndef DOUBLE
#define DOUBLE 0
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

static __always_inline int event(struct __sk_buff *skb, __u32 port, int egress)
{
	struct head head;

	if (bpf_skb_load_bytes(skb, PAYLOAD_AT, &head, sizeof(head)))
		return TC_ACT_OK;
	if (!head.topic || head.version_flags & DUP ? at_random(LOSS) : lost_at(bpf_ntohl(head.sequence), port) < LOSS)
		return TC_ACT_SHOT;
	if (DOUBLE && egress && skb->mark != DOUBLED && at_random(DOUBLE)) {
		skb->mark = DOUBLED;
		bpf_clone_redirect(skb, skb->ifindex, 0);
	}
	return TC_ACT_OK;
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
