/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counting in a hash by a key.
 */
#ifndef TEMPOS_COUNTS_H
#define TEMPOS_COUNTS_H

#include "observe.h"

/* The u64s of a key, made with zeros where there are none yet; NULL: there is no room. */
static __always_inline __u64 *counters_of(void *map, const void *key, const void *zeros)
{
	__u64 *found = bpf_map_lookup_elem(map, key);

	if (found)
		return found;
	/* Another CPU may be first: then its entry is the one to count in. */
	bpf_map_update_elem(map, key, zeros, BPF_NOEXIST);
	return bpf_map_lookup_elem(map, key);
}

/* False: there is no room. */
static __always_inline bool count(void *map, const void *key, __u64 many)
{
	const __u64 none = 0;
	__u64 *counted = counters_of(map, key, &none);

	if (counted)
		__sync_fetch_and_add(counted, many);
	return counted;
}

#endif
