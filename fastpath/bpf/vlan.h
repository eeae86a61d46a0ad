/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Tags of VLANs in frames: taken off what comes in, put in front of what goes out.
 *
 * Rules: all other programs meet frames without a tag. A tag is taken off only where the VLAN's frames are taken
 * (settings.vlans), and what is the kernel's after all gets the very same one back. A frame leaves by the interface
 * below the VLAN's device, with the VLAN's id and nothing else in the tag. Behind both every pointer into the frame is
 * to be found anew.
 *
 * The tag that was taken off lies in memory of the CPU. As a variable it did not survive Linux 6.1: frames went up
 * without what was taken off.
 */
#ifndef TEMPOS_VLAN_H
#define TEMPOS_VLAN_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"
#include "parse.h"
#include "tag.h"

#define VLAN_ID 0xfff
/* A frame with a tag, as far as the type of what it carries. */
#define TAGGED_HLEN (sizeof(struct ethhdr) + VLAN_HLEN)

typedef __u64 __attribute__((may_alias)) eight_macs;
typedef __u32 __attribute__((may_alias)) four_macs;

/*
 * Of a VLAN whose frames are taken: the interface that the kernel is asked for about sources, 0: it need not be. Of
 * any other -1. A function of its own: few frames come here.
 */
static __noinline __s64 vlan_asks(__u32 tag)
{
	__u32 count = settings.vlan_count;

	if (tag >> 16 != ETH_P_8021Q)
		return -1;
#pragma nounroll
	for (__u32 i = 0; i < TEMPOS_MAX_VLANS && i < count; i++)
		if (settings.vlans[i].id == (tag & VLAN_ID))
			return settings.vlans[i].asks;
	return -1;
}

/* The tag that was taken off the frame at hand, or 0; each program's own. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} taken_off SEC(".maps");

static __always_inline __u32 kept_tag(void)
{
	const __u32 only = 0;
	const __u32 *tag = settings.vlan_count ? bpf_map_lookup_elem(&taken_off, &only) : NULL;

	return tag ? *tag : 0;
}

/* Has a tag in front of what a frame carries, as one number. False: there is no room for it. */
static __always_inline bool push_tag(struct xdp_md *ctx, __u32 tag)
{
	__u64 begin;
	__u32 rest;
	void *frame;

	if (bpf_xdp_adjust_head(ctx, -VLAN_HLEN))
		return false;
	frame = (void *)(long)ctx->data;
	if (frame + TAGGED_HLEN > (void *)(long)ctx->data_end)
		return false;
	begin = *(const eight_macs *)(frame + VLAN_HLEN);
	rest = *(const four_macs *)(frame + VLAN_HLEN + 8);
	*(eight_macs *)frame = begin;
	*(four_macs *)(frame + 8) = rest;
	*(four_macs *)(frame + 2 * ETH_ALEN) = bpf_htonl(tag);
	return true;
}

/* Takes the tag off a frame of a VLAN whose frames are taken. The tag as one number, or 0: the frame is as it was. */
static __always_inline __u32 pop(struct xdp_md *ctx)
{
	void *frame = (void *)(long)ctx->data;
	__u64 begin;
	__u32 rest, tag;

	if (!settings.vlan_count || frame + TAGGED_HLEN > (void *)(long)ctx->data_end)
		return 0;
	tag = bpf_ntohl(*(const four_macs *)(frame + 2 * ETH_ALEN));
	/* One beside it would stand before the one in it: that is a VLAN inside another. */
	if (vlan_asks(tag) < 0 || tag_beside(ctx))
		return 0;
	begin = *(const eight_macs *)frame;
	rest = *(const four_macs *)(frame + 8);
	if (bpf_xdp_adjust_head(ctx, VLAN_HLEN))
		return 0;
	frame = (void *)(long)ctx->data;
	if (frame + sizeof(struct ethhdr) > (void *)(long)ctx->data_end)
		return 0;
	*(eight_macs *)frame = begin;
	*(four_macs *)(frame + 8) = rest;
	return tag;
}

/* The same, and keeps it. */
static __always_inline void pop_tag(struct xdp_md *ctx)
{
	const __u32 only = 0;
	__u32 *tag = settings.vlan_count ? bpf_map_lookup_elem(&taken_off, &only) : NULL;

	if (tag)
		*tag = pop(ctx);
}

/* None was taken off. */
static __always_inline void keep_no_tag(void)
{
	const __u32 only = 0;
	__u32 *tag = settings.vlan_count ? bpf_map_lookup_elem(&taken_off, &only) : NULL;

	if (tag)
		*tag = 0;
}

/* What becomes of a frame: what goes up gets back what was taken off. */
static __always_inline int with_tag(struct xdp_md *ctx, int verdict)
{
	__u32 tag = verdict == XDP_PASS ? kept_tag() : 0;

	return tag && !push_tag(ctx, tag) ? XDP_ABORTED : verdict;
}

#endif
