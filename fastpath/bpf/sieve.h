/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether the members of a group get an event: by who sent it, and as one in so many. Of foreign topics only, and of
 * those that say so; what they say lies in the route (struct tempos_sieve).
 *
 * Rules: every group draws a ticket of every event all the same. A group that takes what some senders send draws from a
 * counter besides, behind the tickets, for each that it takes; the slow path draws from the same. What `every` leaves
 * out follows from the number that was drawn, so it is exact whoever forwards.
 */
#ifndef TEMPOS_SIEVE_H
#define TEMPOS_SIEVE_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"
#include "meant.h"
#include "pick.h"

/* What its groups get; only where a route is of full size, which `mask` says (pick.h). */
static __always_inline const struct tempos_sieve *sieve_of(const struct tempos_route *route)
{
	return (const struct tempos_sieve *)&route->members[TEMPOS_SIEVE_AT];
}

/* Bits of the groups that take what an address sends. A global function: the verifier looks at it alone, and once. */
__noinline int takers_of(const struct tempos_sieve *sieve, __be32 address)
{
	return sieve ? (int)tempos_meant(sieve->ranges, address) : 0;
}

/* The same, of this sender. */
static __always_inline __u32 takers(const struct tempos_route *route, __u32 mask, const struct sender *from)
{
	if (mask != TEMPOS_MAX_MEMBERS - 1 || !route->by_sender)
		return ~0U;
	return takers_of(sieve_of(route), from->address);
}

/*
 * The number that the turn of who gets the event with this ticket follows from, and 1; 0: nobody of the group does.
 * `takes`: whether the group takes what the sender sends; counted at `taken`, from the topic's `base` on. A global
 * function, too.
 */
__noinline __u64 turn_of(__u64 ticket, __u32 takes, __u32 base, __u32 taken, __u32 every)
{
	__u64 turn;

	if (!takes)
		return 0;
	if (taken) {
		__u32 slot = base + taken;
		struct tempos_ticket *counter = bpf_map_lookup_elem(&tickets, &slot);

		if (!counter)
			return 0;
		ticket = __sync_fetch_and_add(&counter->next, 1);
	}
	turn = ticket / every;
	return turn * every == ticket ? turn + 1 : 0;
}

/*
 * Whether the members of `group`, which is below TEMPOS_MAX_GROUPS, get the event with this ticket; `taking`: see
 * above. Then `ticket` becomes the number that their turns follow from.
 */
static __always_inline bool gets(const struct tempos_route *route, __u32 group, __u32 mask, __u32 taking, __u64 *ticket)
{
	const struct tempos_less *less = &sieve_of(route)->of[group];
	__u64 turn;

	if (mask != TEMPOS_MAX_MEMBERS - 1 || !(route->less >> group & 1))
		return true;
	turn = turn_of(*ticket, taking >> group & 1, route->ticket_base, less->taken, less->every);
	*ticket = turn - 1;
	return turn;
}

#endif
