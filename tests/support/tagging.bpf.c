/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * On the way out of a node: gives a packet whose mark asks for it a VLAN tag, as a VLAN device does, so that it
 * travels beside the packet (tagging.py).
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define WANTED 0x10000
#define SERVICE 0x20000

SEC("tc")
int tag(struct __sk_buff *skb)
{
	__u16 protocol = skb->mark & SERVICE ? ETH_P_8021AD : ETH_P_8021Q;

	if (skb->mark & WANTED)
		bpf_skb_vlan_push(skb, bpf_htons(protocol), skb->mark & 0xffff);
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
