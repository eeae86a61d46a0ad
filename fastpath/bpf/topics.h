/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps that the XDP program and the socket selector share: `rows`, where a wide topic stands in every table, and
 * `topics`, what holds of it whatever its routes: its class, its rate, and the token bucket that both paths take from.
 * User space maps them into its memory and writes them there; the programs change nothing but `due`.
 */
#ifndef TEMPOS_NARROW_H
#define TEMPOS_NARROW_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tempos_rows);
} rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, TEMPOS_NARROW);
	__type(key, __u32);
	__type(value, struct tempos_topic);
} topics SEC(".maps");

/* The row of the topic with this wide id; 0: there is none. */
static __always_inline __u32 row_of(__u64 id)
{
	const __u32 only = 0;
	const struct tempos_rows *all = bpf_map_lookup_elem(&rows, &only);

	/* Two bytes together may be read as one word and swapped, of which the verifier forgets the bounds (parse.h). */
	asm volatile("%0 &= 0xffff" : "+r"(id));
	return all ? all->of[id] : 0;
}

/* The same of the id that begins at `wide`. */
static __always_inline __u32 row_of_wide(const __u8 *wide)
{
	return row_of(wide[0] << 8 | wide[1]);
}

#endif
