/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which slot of a group's table a datagram falls into where members are picked by its source. Compiled into the
 * programs and into the slow path's batch helper, so that they cannot disagree; the portable Python twin, and what
 * fills the table, is tempos._spread.
 */
#ifndef TEMPOS_SPREAD_H
#define TEMPOS_SPREAD_H

#include "abi.h"

/* `address` and `port` as they lie in a packet, `pick` as the topic says. */
static inline __attribute__((always_inline)) __u32
tempos_spread_slot(__be32 address, __be16 port, __u8 pick)
{
	const __u8 *byte = (const __u8 *)&address, *two = (const __u8 *)&port;
	__u32 mixed = (__u32)byte[0] << 24 | byte[1] << 16 | byte[2] << 8 | byte[3];

	if (pick == TEMPOS_PICK_SOURCE_PORT)
		mixed ^= (__u32)(two[0] << 8 | two[1]) * 0x9e3779b1u;
	/* So that neighbours fall apart: each bit of what comes out depends on each that went in. */
	mixed ^= mixed >> 16;
	mixed *= 0x85ebca6bu;
	mixed ^= mixed >> 13;
	mixed *= 0xc2b2ae35u;
	mixed ^= mixed >> 16;
	return mixed & (TEMPOS_SPREAD_SLOTS - 1);
}

#endif
