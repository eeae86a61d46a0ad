/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the fast path is measured against: programs that do as little as their kind can do.
 *
 *   redirect_only    every frame -> out of the one interface in `egress`, untouched
 *   pass_only        every frame -> up the stack
 *   count_and_drop   every frame -> counted, dropped: the far end of a measurement
 *
 * None looks at a byte of the frame. What cannot be redirected is dropped and shows as missing at the
 * far end.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} egress SEC(".maps");

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
int pass_only(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int count_and_drop(struct xdp_md *ctx)
{
	__u32 key = 0;
	__u64 *count = bpf_map_lookup_elem(&counted, &key);

	if (count)
		*count += 1;
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
