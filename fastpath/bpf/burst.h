/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a frame in generic mode is a burst: several datagrams under one header, which the kernel
 * carries as one buffer (UDP GSO of a local sender, or GRO of a driver) and cuts up when it leaves.
 *
 * In native mode there is none. In generic mode a burst looks like one datagram, down to its checksum;
 * forwarded, it would come out as many with one ticket between them. What tells is `gso_size`, in the
 * shared info behind the socket buffer's data, which is also where generic XDP lets a frame end. It is
 * read through the kernel's own types (CO-RE), so that its layout is nobody's guess.
 *
 * Where the kernel lacks the two functions (before 6.2) nothing can be told, and no frame is a burst.
 */
#ifndef TEMPOS_BURST_H
#define TEMPOS_BURST_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* SMP_CACHE_BYTES: what the kernel rounds the shared info's size up to. */
#define SHARED_INFO_ALIGN 64

struct xdp_buff {
	void *data_hard_start;
	__u32 frame_sz;
} __attribute__((preserve_access_index));

struct skb_shared_info {
	unsigned short gso_size;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *context) __ksym __weak;
extern void *bpf_rdonly_cast(const void *address, __u32 btf_id) __ksym __weak;

static __always_inline bool is_burst(struct xdp_md *ctx)
{
	const struct skb_shared_info *shared;
	const struct xdp_buff *frame;
	__u32 size;

	if (!bpf_cast_to_kern_ctx || !bpf_rdonly_cast)
		return false;
	frame = bpf_cast_to_kern_ctx(ctx);
	size = bpf_core_type_size(struct skb_shared_info);
	size = (size + SHARED_INFO_ALIGN - 1) & ~(SHARED_INFO_ALIGN - 1);
	shared = bpf_rdonly_cast(frame->data_hard_start + frame->frame_sz - size,
				 bpf_core_type_id_kernel(struct skb_shared_info));
	return shared->gso_size;
}

#endif
