/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a frame had a VLAN tag that a card, or veth, took off before the program runs. Such a frame is for a VLAN
 * device on top of the interface, or for nobody: the kernel decides. A redirect would lose the tag (native), or
 * keep it on another wire (generic). Of some VLANs a native program knows that the frame is for their device, and
 * takes it as if that had it (settings.vlans); a tag in the frame is taken off before that, and put back where the
 * frame is the kernel's after all (vlan.h). How the program knows is fixed when it is loaded (enum tempos_tags):
 *
 *   in the frame   nothing takes tags off in front of the program: parse.h sees them.
 *   noted          generic mode: a tracing program sees the socket buffer just before, on the same CPU (beside.h).
 *   read           native mode on veth (Linux 6.3): what the program is given is part of a struct of the driver's
 *                  that leads to the socket buffer. Where in it, user space reads in the kernel's own types (BTF).
 *                  The kernel's function for it, bpf_xdp_metadata_rx_vlan_tag, costs 15 ns and a program for each
 *                  interface; this costs 3.
 *   heard          native mode, and the driver does not tell: once a tagged frame was heard of at any interface of
 *                  that kind, everything passes, until user space has taken that interface off.
 */
#ifndef TEMPOS_TAG_H
#define TEMPOS_TAG_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "beside.h"
#include "maps.h"

struct sk_buff {
	__u32 vlan_all;
	__be16 vlan_proto;
	__u16 vlan_tci;
} __attribute__((preserve_access_index));

/* Of the kernel's own structs the one that begins with a pointer to a socket buffer. */
struct sk_buff_list {
	struct sk_buff *next;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *context) __ksym __weak;
extern void *bpf_rdonly_cast(const void *address, __u32 btf_id) __ksym __weak;

/* Some tag, of which nothing is known. */
#define SOME_TAG 0xffffffff

/*
 * The tag beside a frame as it would lie in it, as one number (its type is the upper half), or 0. So it is of a frame
 * without a socket buffer: it was redirected here, and what tag it has lies in it.
 */
static __always_inline __u32 read_tag(struct xdp_md *ctx, __u32 skb_at)
{
	const struct sk_buff_list *at = bpf_rdonly_cast(bpf_cast_to_kern_ctx(ctx) + skb_at,
							bpf_core_type_id_kernel(struct sk_buff_list));
	const struct sk_buff *skb = at->next;

	if (!skb || !skb->vlan_all)
		return 0;
	return settings.vlan_count ? (__u32)bpf_ntohs(skb->vlan_proto) << 16 | skb->vlan_tci : SOME_TAG;
}

/* The same, whatever the program learns of it by. */
static __always_inline __u32 tag_beside(struct xdp_md *ctx)
{
	/* Constants to the verifier: one of these branches is left, or none. The fastest mode's comes first. */
	const __u32 skb_at = settings.skb_at;

	if (skb_at)
		return read_tag(ctx, skb_at);
	if (settings.tags == TEMPOS_TAGS_NOTED)
		return noted(NOTED_TAG) ? SOME_TAG : 0;
	return settings.tags == TEMPOS_TAGS_HEARD && heard_anew() ? SOME_TAG : 0;
}

#endif
