/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The map of what holds of a topic whatever its routes, which the XDP program and the socket selector share:
 * its class, its rate, and the token bucket that both paths take from. User space maps it into its memory and
 * writes it there; the programs change nothing but `due`.
 */
#ifndef TEMPOS_TOPICS_H
#define TEMPOS_TOPICS_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, TEMPOS_TOPICS);
	__type(key, __u32);
	__type(value, struct tempos_topic);
} topics SEC(".maps");

#endif
