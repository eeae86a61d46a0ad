/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What belongs to a frame and does not lie in it: tracing programs, which see the kernel's socket buffers
 * (beside.bpf.c), leave word of it for the XDP programs, which do not. Memory of the kernel; user space writes
 * one word of it, and only the maps' pins outlive a broker.
 *
 *   notes   of the socket buffer that a CPU has in hand, in generic mode: whether there is a VLAN tag, and whether
 *           it is a burst, that is several datagrams under one header, which the kernel carries as one buffer (UDP
 *           GSO of a local sender, or GRO of a driver) and cuts up when it leaves. A burst looks like one datagram,
 *           down to its checksum; forwarded, it would come out as many with one ticket between them.
 *   heard   tagged frames at interfaces whose native program cannot tell, and how many of them user space has
 *           dealt with (TEMPOS_HEARD_*).
 */
#ifndef TEMPOS_BESIDE_H
#define TEMPOS_BESIDE_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"

#define NOTED_TAG 1
#define NOTED_BURST 2

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} notes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TEMPOS_HEARD_SETTLED + 1);
	__type(key, __u32);
	__type(value, __u32);
} heard SEC(".maps");

static __always_inline bool noted(__u32 what)
{
	const __u32 only = 0;
	const __u32 *note = bpf_map_lookup_elem(&notes, &only);

	return !note || *note & what;
}

static __always_inline bool heard_anew(void)
{
	const __u32 all = TEMPOS_HEARD_FRAMES, old = TEMPOS_HEARD_SETTLED;
	const __u32 *frames = bpf_map_lookup_elem(&heard, &all);
	const __u32 *settled = bpf_map_lookup_elem(&heard, &old);

	return !frames || !settled || *frames != *settled;
}

#endif
