// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Loses every 24th event of each publisher on its way out, beginning with the sixth (see lossy.py). */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define DATA_PORT 9998
#define EVERY 24
#define AT 5
#define UDP_OFFSET (sizeof(struct ethhdr) + sizeof(struct iphdr))
#define SEQUENCE_OFFSET (UDP_OFFSET + sizeof(struct udphdr) + 8)

SEC("tc")
int lossy(struct __sk_buff *skb)
{
	__be16 port = 0;
	__be32 sequence = 0;

	if (skb->protocol != bpf_htons(ETH_P_IP) ||
	    bpf_skb_load_bytes(skb, UDP_OFFSET + 2, &port, sizeof(port)) || port != bpf_htons(DATA_PORT) ||
	    bpf_skb_load_bytes(skb, SEQUENCE_OFFSET, &sequence, sizeof(sequence)))
		return TC_ACT_OK;
	return bpf_ntohl(sequence) % EVERY == AT ? TC_ACT_SHOT : TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
