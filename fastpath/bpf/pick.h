/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Draws a group's next ticket: it alone says which member gets the event, and with which delivery sequence.
 *
 * Rules: both data paths draw from the same counters, so it is one atomic add. Nothing may be asked
 * after it: a ticket that is drawn ends in a frame that is sent, or in a loss that is counted.
 */
#ifndef TEMPOS_PICK_H
#define TEMPOS_PICK_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"

/* The next ticket of `group`, which is below TEMPOS_MAX_GROUPS. False: there is no such counter. */
static __always_inline bool draw(const struct tempos_route *route, __u32 group, __u64 *ticket)
{
	__u32 slot = route->ticket_base + group;
	struct tempos_ticket *counter = bpf_map_lookup_elem(&tickets, &slot);

	if (!counter)
		return false;
	*ticket = __sync_fetch_and_add(&counter->next, 1);
	return true;
}

/*
 * The member of `group`, which is below TEMPOS_MAX_GROUPS and not empty, with this ticket. `mask`: as many members as
 * the route has room for, less 1.
 */
static __always_inline void choose(const struct tempos_route *route, __u32 group, __u32 mask, __u64 ticket,
				   const struct tempos_member **picked, __u64 *sequence)
{
	__u32 count = route->groups[group].count;
	const struct tempos_member *member;
	__u64 turn;

	/* The division is the dearest single instruction, and many groups are one subscriber's own. */
	turn = count == 1 ? ticket : ticket / count;
	*sequence = turn;
	member = &route->members[(route->groups[group].first + (__u32)(ticket - turn * count)) & mask];
	/* Keeps clang from working the address out again at each use. */
	asm volatile("" : "+r"(member));
	*picked = member;
}

/* The same with the group's next ticket. */
static __always_inline bool pick(const struct tempos_route *route, __u32 group, __u32 mask,
				 const struct tempos_member **picked, __u64 *sequence, __u64 *ticket)
{
	if (!draw(route, group, ticket))
		return false;
	choose(route, group, mask, *ticket, picked, sequence);
	return true;
}

#endif
