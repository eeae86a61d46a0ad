// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Loses one in ten of what goes to a broker, to its data and its control port, at random (see lossy.py). */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define DATA_PORT 9998
#define CONTROL_PORT 9997
#define ONE_IN 10
#define UDP_OFFSET (sizeof(struct ethhdr) + sizeof(struct iphdr))

SEC("tc")
int lossy(struct __sk_buff *skb)
{
	__be16 port = 0;

	if (skb->protocol != bpf_htons(ETH_P_IP) || bpf_skb_load_bytes(skb, UDP_OFFSET + 2, &port, sizeof(port)) ||
	    (port != bpf_htons(DATA_PORT) && port != bpf_htons(CONTROL_PORT)))
		return TC_ACT_OK;
	return bpf_get_prandom_u32() % ONE_IN ? TC_ACT_OK : TC_ACT_SHOT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
