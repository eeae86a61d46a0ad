/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every observing program needs: whether the process at hand is one that was asked for, ring buffers that
 * wake the reader seldom, and losses under a name.
 *
 * Rules:  Python knows a tool's structs from the object's own type information (BTF), by their C names: nothing
 *         is copied. A map's key and value are in it of themselves; a ring's record needs SHOWN. Members are
 *         integers, arrays of them, char arrays (text) and structs of those (a member's name is then a_b).
 *         What had no room is counted in a variable lost_WHAT, which the frame finds by that prefix and tells.
 *         Every section begins with "?": the frame asks for what the kernel has.
 */
#ifndef TEMPOS_OBSERVE_H
#define TEMPOS_OBSERVE_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "kernel.h"

#define COMM_LEN 16
#define MAX_WATCHED 65536
/* Of a ring buffer: a second's records at 100,000 a second, for a reader that is given no CPU for so long. */
#define RING_BYTES (32 << 20)
/* A reader that sleeps is woken when so much more waits for it; it looks by itself ten times a second. */
#define WAKE_BYTES (512 << 10)
/* As much may come at once, of all CPUs; each of those wakes him. */
#define AT_ONCE 4096

/* Fixed at load. */
const volatile __u32 only_pid = 0;          /* the one process that was asked for; 0: any */
const volatile __u32 own_pid = 0;           /* the tool itself: of no interest */
const volatile bool only_watched = false;   /* those in the map below, and what they start */
const volatile bool only_comm = false;
const volatile char the_comm[COMM_LEN] = {};

/* Processes that were asked for, where they are several; their children are added by the frame's own program. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_WATCHED);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u8);
} watched SEC(".maps");

/* Makes a struct known to Python that is in no map. */
#define SHOWN(type) const struct type *shown_##type __attribute__((unused))

static __always_inline bool is_the_comm(const char *comm)
{
	for (int i = 0; i < COMM_LEN; i++) {
		if (comm[i] != the_comm[i])
			return false;
		if (!comm[i])
			return true;
	}
	return true;
}

/* Whether a process is one that was asked for; `comm`: its or its thread's name. */
static __always_inline bool wanted(__u32 pid, const char *comm)
{
	if (pid == own_pid)
		return false;
	if (only_pid && pid != only_pid)
		return false;
	if (only_watched && !bpf_map_lookup_elem(&watched, &pid))
		return false;
	return !only_comm || is_the_comm(comm);
}

/* Where only some processes are watched: what they start is watched, too. */
SEC("?tp_btf/sched_process_fork")
int BPF_PROG(tempos_follow, struct task_struct *parent, struct task_struct *child)
{
	__u32 of = parent->tgid, pid = child->tgid;
	const __u8 yes = 1;

	if (pid != of && bpf_map_lookup_elem(&watched, &of))
		bpf_map_update_elem(&watched, &pid, &yes, BPF_ANY);
	return 0;
}

/* The same of the process at hand. 0: it is not; else its id. */
static __always_inline __u32 wanted_here(void)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	char comm[COMM_LEN] = {};

	if (only_comm)
		bpf_get_current_comm(comm, sizeof(comm));
	return wanted(pid, comm) ? pid : 0;
}

/*
 * The kernel leaves a program out where an event comes amid it, on the same CPU: in an interrupt. Of a hook that is
 * passed in processes and in interrupts the program NAME has a twin NAME_amid, attached behind it: it does that one's
 * work while `amid` says that the other is at work, and counts it in caught_NAME. Where the program is done in a few
 * nanoseconds that is of no use: then it is the kernel's own begin and end that are interrupted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} amid SEC(".maps");

static __always_inline void set_amid(__u32 yes)
{
	const __u32 only = 0;
	__u32 *here = bpf_map_lookup_elem(&amid, &only);

	if (here)
		*(volatile __u32 *)here = yes;
}

static __always_inline bool is_amid(void)
{
	const __u32 only = 0;
	__u32 *here = bpf_map_lookup_elem(&amid, &only);

	return here && *(volatile __u32 *)here;
}

/* Whether what comes into a ring buffer now wakes the reader: the flag for it. */
static __always_inline __u64 wake(void *ring)
{
	__u64 waiting = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);

	return waiting >= WAKE_BYTES && waiting % WAKE_BYTES < AT_ONCE ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

/* Hands a record on that was reserved in a ring buffer. */
static __always_inline void submit(void *ring, void *record)
{
	bpf_ringbuf_submit(record, wake(ring));
}

/* The bucket of a histogram: 0, 1, [2, 4), [4, 8), ... */
static __always_inline __u32 bucket_of(__u64 value)
{
	__u32 bucket = 0;

	for (int shift = 32; shift; shift >>= 1)
		if (value >> shift) {
			value >>= shift;
			bucket += shift;
		}
	return value ? bucket + 1 : 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#endif
