/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How long threads that could run wait for a CPU: from when one becomes ready, or is pushed off its CPU, to when it
 * runs.
 *
 * The kernel keeps that account itself (/proc/PID/schedstat): what a thread has waited in all its life, and since when
 * it stands in a queue. When it is about to run both are still there, so one hook tells the whole wait, to the
 * nanosecond as the kernel counts it. A thread that is moved to another CPU while it waits begins to queue anew; what
 * it waited before is found as the growth of the first account since it last left a CPU.
 */
#include "observe.h"

#define MAX_THREADS 65536
#define BUCKETS 40

struct tempos_waits {
	__u64 bucket[BUCKETS]; /* us: none, [1], [2, 4), [4, 8), ... */
	__u64 ns;              /* all of them together */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tempos_waits);
} waits SEC(".maps");

/* Thread -> what it had waited in its life when it last left a CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_THREADS);
	__type(key, __u32);
	__type(value, __u64);
} waited SEC(".maps");

__u64 lost_threads = 0;

static __always_inline bool is_watched(const struct task_struct *task)
{
	char comm[COMM_LEN] = {};

	if (only_comm)
		bpf_probe_read_kernel(comm, sizeof(comm), task->comm);
	return task->pid && wanted(task->tgid, comm);
}

static __always_inline void leaves(const struct task_struct *task, unsigned int state)
{
	__u64 life = task->sched_info.run_delay;
	__u32 thread = task->pid;

	if (state & TASK_DEAD)
		bpf_map_delete_elem(&waited, &thread);
	else if (bpf_map_update_elem(&waited, &thread, &life, BPF_ANY))
		__sync_fetch_and_add(&lost_threads, 1);
}

static __always_inline void comes(const struct task_struct *task)
{
	__u64 queued = task->sched_info.last_queued, life = task->sched_info.run_delay;
	__u32 thread = task->pid, only = 0;
	struct tempos_waits *all = bpf_map_lookup_elem(&waits, &only);
	__u64 *before = bpf_map_lookup_elem(&waited, &thread);
	__u32 bucket;
	__u64 ns;

	if (!queued || !all)
		return;
	ns = BPF_CORE_READ(task, se.cfs_rq, rq, clock) - queued;
	if (before)
		ns += life - *before;
	else if (!task->sched_info.pcount)
		ns += life;
	bucket = bucket_of(ns / 1000);
	all->bucket[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
	all->ns += ns;
}

SEC("?tp_btf/sched_switch")
int BPF_PROG(tempos_switched, bool preempted, struct task_struct *from, struct task_struct *to,
	     unsigned int state)
{
	if (is_watched(from))
		leaves(from, state);
	if (is_watched(to))
		comes(to);
	return 0;
}
