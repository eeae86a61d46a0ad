/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the fast path is measured against: programs that do as little as their kind can do.
 *
 *   redirect_only    every frame -> out of the one interface in `egress`, untouched
 *   broadcast_only   every frame -> one copy for each slot of `copies`, all untouched
 *   hand_on          UDP -> the same, with the MACs of the next hop and no UDP checksum, so that a
 *                    receiver takes it; else -> up the stack
 *   relay            IPv4 to one of two hosts on this interface -> the same, with that host's MAC; else
 *                    -> up the stack: what a ping takes that goes by a third node
 *   pass_only        every frame -> up the stack
 *   count_and_drop   IPv4 -> counted, dropped: the far end of a measurement
 *                    else -> up the stack: neighbours still find each other
 *
 * `redirect_only`, `broadcast_only` and `pass_only` do not look at a byte of the frame. What cannot be redirected is
 * dropped and shows as missing at the far end.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} egress SEC(".maps");

/* Made anew, with as many slots as copies are wanted, where it is used. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} copies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} counted SEC(".maps");

SEC("xdp")
int redirect_only(struct xdp_md *ctx)
{
	return bpf_redirect_map(&egress, 0, XDP_DROP);
}

SEC("xdp")
int broadcast_only(struct xdp_md *ctx)
{
	return bpf_redirect_map(&copies, 0, BPF_F_BROADCAST);
}

/* Destination, then source. */
const volatile __u8 macs[2 * ETH_ALEN] = {};

SEC("xdp")
int hand_on(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);

	if ((const void *)(udp + 1) > (const void *)(long)ctx->data_end)
		return XDP_PASS;
	if (eth->h_proto != bpf_htons(ETH_P_IP) || ip->ihl != 5 || ip->protocol != IPPROTO_UDP)
		return XDP_PASS;
#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++) {
		eth->h_dest[i] = macs[i];
		eth->h_source[i] = macs[ETH_ALEN + i];
	}
	udp->check = 0;
	return bpf_redirect_map(&egress, 0, XDP_DROP);
}

/* Two addresses, then their MACs and our own. */
const volatile __be32 relay_hosts[2] = {};
const volatile __u8 relay_macs[3 * ETH_ALEN] = {};

SEC("xdp")
int relay(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	unsigned int host;

	if ((const void *)(ip + 1) > (const void *)(long)ctx->data_end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	if (ip->daddr == relay_hosts[0])
		host = 0;
	else if (ip->daddr == relay_hosts[1])
		host = ETH_ALEN;
	else
		return XDP_PASS;
#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++) {
		eth->h_dest[i] = relay_macs[host + i];
		eth->h_source[i] = relay_macs[2 * ETH_ALEN + i];
	}
	return bpf_redirect_map(&egress, 0, XDP_DROP);
}

SEC("xdp")
int pass_only(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int count_and_drop(struct xdp_md *ctx)
{
	const struct ethhdr *eth = (const void *)(long)ctx->data;
	__u32 key = 0;
	__u64 *count;

	if ((const void *)(eth + 1) > (const void *)(long)ctx->data_end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	count = bpf_map_lookup_elem(&counted, &key);
	if (count)
		*count += 1;
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
