/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The frame that a tracepoint of XDP is about and is not given.
 *
 *   refused     Whoever called the program still has the frame's struct xdp_buff, on his stack or by a pointer there.
 *               The stack is the one that the tracepoint's arguments lie on, so it is looked for from there upwards: a
 *               struct whose pointers are in order, of the interface that the frame came in by.
 *   not taken   The interface's list of this CPU still has the frames that it gave back a moment ago, and their memory
 *               is as it was: this CPU is here, and another, to whose pool some may go back, has not had a microsecond.
 *
 * Rules: reads only. What does not look like an IPv4 datagram as the fast path forwards them is not one.
 */
#ifndef TEMPOS_AT_HAND_H
#define TEMPOS_AT_HAND_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "kernel.h"

#define BULK 16
#define NAME_LEN 16
#define XDP_IN_DRIVER 1
/* Words of the stack that are looked at. */
#define WORDS 192
#define MAX_FRAME (1 << 17)

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct bpf_prog_aux {
	__u32 id;
	char name[NAME_LEN];
};

struct bpf_prog {
	struct bpf_prog_aux *aux;
};

struct bpf_link {
	struct bpf_prog *prog;
};

struct bpf_xdp_link {
	struct bpf_link link;
};

struct bpf_xdp_entity {
	struct bpf_prog *prog;
	struct bpf_xdp_link *link;
};

struct xdp_frame {
	void *data;
};

struct xdp_dev_bulk_queue {
	struct xdp_frame *q[BULK];
};

struct net_device___xdp {
	char name[NAME_LEN];
	struct xdp_dev_bulk_queue *xdp_bulkq;
	struct bpf_xdp_entity xdp_state[3];
};

struct bpf_dtab_netdev {
	struct net_device *dev;
};

struct xdp_rxq_info {
	struct net_device *dev;
};

struct xdp_buff {
	void *data;
	void *data_end;
	void *data_hard_start;
	struct xdp_rxq_info *rxq;
};

struct bpf_array {
	void *pptrs[0];
};

#pragma clang attribute pop

/* Ethernet, IPv4 without options, UDP, and the begin of the payload. */
struct headers {
	__u8 macs[12];
	__be16 protocol;
	__u8 version;
	__u8 before[8];
	__u8 transport;
	__u8 behind[18];
	__u8 payload[3];
} __attribute__((packed));

static __always_inline bool is_datagram(const struct headers *headers)
{
	return headers->protocol == bpf_htons(ETH_P_IP) && headers->version == 0x45 &&
	       headers->transport == IPPROTO_UDP;
}

/* Of one CPU: addresses, which are plain numbers once they have been here. */
struct scratch {
	__u64 map;
	__u64 here;
	__u64 arguments;
	__u64 from;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

static __always_inline struct scratch *scratch(void)
{
	const __u32 only = 0;

	return bpf_map_lookup_elem(&scratches, &only);
}

/* Of a pointer to what each CPU has, this one's: as far away as the entries of a map lie from where theirs point. */
static __always_inline const void *of_this_cpu(const void *each)
{
	struct scratch *own = scratch();
	__u64 base = 0;

	if (!own || !each)
		return NULL;
	own->map = (__u64)&scratches;
	own->here = (__u64)own;
	barrier();
	bpf_probe_read_kernel(&base, sizeof(base),
			      (const void *)(own->map + bpf_core_field_offset(struct bpf_array, pptrs)));
	return base ? each + (own->here - base) : NULL;
}

/* Where a frame begins that is in a list; NULL: it is not there. */
static __always_inline const void *queued(const struct xdp_dev_bulk_queue *queue, int place)
{
	const struct xdp_frame *frame = NULL;
	const void *data = NULL;

	if (!queue || place < 0 || place >= BULK)
		return NULL;
	bpf_probe_read_kernel(&frame, sizeof(frame),
			      (const void *)queue + bpf_core_field_offset(struct xdp_dev_bulk_queue, q) +
				      place * sizeof(frame));
	/* The frame's description lies at the begin of its own memory. */
	data = frame ? BPF_CORE_READ(frame, data) : NULL;
	return data > (const void *)frame && data - (const void *)frame < MAX_FRAME ? data : NULL;
}

/* Whether what lies there is the description of a frame that came in by this interface; then where it begins. */
static __always_inline __u64 described(const struct xdp_buff *frame, __u64 from)
{
	__u64 data = (__u64)BPF_CORE_READ(frame, data);
	__u64 end = (__u64)BPF_CORE_READ(frame, data_end);
	__u64 start = (__u64)BPF_CORE_READ(frame, data_hard_start);

	if (!data || start > data || data >= end || end - start > MAX_FRAME)
		return 0;
	return (__u64)BPF_CORE_READ(frame, rxq, dev) == from ? data : 0;
}

struct search {
	__u64 at;
	__u64 from;
	__u64 data;
};

static long look_at_word(__u32 index, struct search *search)
{
	const __u64 *at = (const __u64 *)search->at + index;
	__u64 word;

	/* The end of the stack. */
	if (bpf_probe_read_kernel(&word, sizeof(word), at))
		return 1;
	/* In kernel memory: a pointer to it, or its first member. */
	if ((__s64)word >= 0)
		return 0;
	search->data = described((const struct xdp_buff *)word, search->from);
	if (!search->data)
		search->data = described((const struct xdp_buff *)at, search->from);
	return !!search->data;
}

/* Where the frame begins that was redirected; NULL: it is not found. `arguments`: the tracepoint's own. */
static __always_inline const void *frame_at_hand(const __u64 *arguments, const struct net_device *from)
{
	struct scratch *own = scratch();
	struct search search = {};

	if (!own)
		return NULL;
	own->arguments = (__u64)arguments;
	own->from = (__u64)from;
	barrier();
	search.at = own->arguments;
	search.from = own->from;
	bpf_loop(WORDS, look_at_word, &search, 0);
	return (const void *)search.data;
}

#endif
