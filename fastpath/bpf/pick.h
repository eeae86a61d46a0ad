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
#include "spread.h"

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
 * Where among the route's members the one of a group that picks by the source is. It has a counter of its own, for its
 * share does not follow from the tickets. A route with tables is of full size: `mask`, a constant to the verifier, says
 * which it is.
 */
static __always_inline __u32 place_by_source(const struct tempos_route *route, __u32 group, __u32 mask,
					     const struct sender *from)
{
	const struct tempos_group *of = &route->groups[group];
	const __u16 *slots = (const __u16 *)&route->members[TEMPOS_SPREAD_AT];
	struct tempos_ticket *counter;
	__u32 at, place, slot;

	if (mask != TEMPOS_MAX_MEMBERS - 1)
		return 0;
	at = of->slots + tempos_spread_slot(from->address, from->port, of->pick);
	asm volatile("" : "+r"(at));
	place = of->first + slots[at & (TEMPOS_SPREAD_SLOTS * TEMPOS_SPREAD_GROUPS - 1)];
	slot = route->ticket_base + TEMPOS_MAX_GROUPS + place;
	counter = place < TEMPOS_SPREAD_MEMBERS ? bpf_map_lookup_elem(&tickets, &slot) : NULL;
	if (counter)
		__sync_fetch_and_add(&counter->next, 1);
	return place;
}

/*
 * The member of `group`, which is below TEMPOS_MAX_GROUPS and not empty, with this ticket; `from`: of a foreign topic,
 * the sender, by whom it may be. `mask`: as many members as the route has room for, less 1.
 */
static __always_inline void choose(const struct tempos_route *route, __u32 group, __u32 mask, __u64 ticket,
				   const struct sender *from, const struct tempos_member **picked, __u64 *sequence)
{
	__u32 count = route->groups[group].count;
	const struct tempos_member *member;
	__u32 place;
	__u64 turn;

	/* The division is the dearest single instruction, and many groups are one subscriber's own. */
	turn = count == 1 ? ticket : ticket / count;
	*sequence = turn;
	place = route->groups[group].first + (__u32)(ticket - turn * count);
	if (from && route->groups[group].pick)
		place = place_by_source(route, group, mask, from);
	/* What it may be is forgotten, so that the verifier goes one way from here. */
	if (from)
		asm volatile("" : "+r"(place));
	member = &route->members[place & mask];
	/* Keeps clang from working the address out again at each use. */
	asm volatile("" : "+r"(member));
	*picked = member;
}

#endif
