/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sends one and the same frame as often as BPF_PROG_TEST_RUN with live frames repeats it.
 *
 *   frame shorter than its headers -> dropped
 *   else                           -> headers put back, out of the one interface in `egress`
 *
 * The kernel recycles live frames with what the forwarders on their way wrote into them (addresses,
 * checksums, a TTL that runs out after 63 rounds), so all of it is written anew each time. Its first
 * HEAD_LEN bytes cover Ethernet, IPv4, UDP and the event header.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define HEAD_LEN 72

const volatile __u64 head[HEAD_LEN / 8] = {};

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} egress SEC(".maps");

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	__u64 *to = (void *)(long)ctx->data;
	const void *end = (const void *)(long)ctx->data_end;

	if ((const void *)(to + HEAD_LEN / 8) > end)
		return XDP_DROP;
#pragma unroll
	for (int i = 0; i < HEAD_LEN / 8; i++)
		to[i] = head[i];
	return bpf_redirect_map(&egress, 0, XDP_DROP);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
