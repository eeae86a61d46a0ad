/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The processes that use the network, and what each has used up: page faults, processor time, and waiting for it.
 *
 *   tempos_look           run when somebody looks: sums up the threads of each user that lives
 *   sched_process_exit    how long a thread waited in all: the kernel does not sum that up
 *   sched_process_free    what a process used up in all: the kernel has just summed it up
 *   iterator task         at the start what everybody has used up; later users that only user space has found out
 *
 * Faults are no events here: the kernel counts them by thread, pinned pages too (which the page-fault perf event
 * does not see), and a process's are those of its threads and what is summed up of those that have ended. So a fault
 * costs nothing, and the numbers are those of getrusage.
 *
 * Users lie in an array that user space has in its memory, and `filled` says how many: a look takes as long as there
 * is something to show, and no system call but the one that has them summed up.
 *
 * Rules:  where the kernel keeps what the threads of a process share (`signal`) is only looked at while the process
 *         has not been freed, in an RCU section.
 */
#ifndef TEMPOS_USERS_H
#define TEMPOS_USERS_H

#include "observe.h"

#define MAX_USERS 16384
/* So often what is summed up is read, if threads end meanwhile. */
#define TRIES 4
#define MAX_LOOPS (1 << 20)

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next;
};

struct signal_struct {
	struct list_head thread_head;
	struct {
		struct {
			struct {
				unsigned int sequence;
			} seqcount;
		} seqcount;
	} stats_lock;
	unsigned long min_flt;
	unsigned long maj_flt;
	unsigned long long sum_sched_runtime;
};

struct sched_entity___used {
	__u64 sum_exec_runtime;
};

struct task_struct___used {
	unsigned long min_flt;
	unsigned long maj_flt;
	__u64 start_time;
	struct task_struct___used *group_leader;
	struct sched_entity___used se;
	struct sched_info sched_info;
	struct list_head thread_node;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop

/* What a thread or a process has used up. */
struct tempos_usage {
	__u64 min_flt;
	__u64 maj_flt;
	__u64 cpu_ns;
	__u64 wait_ns;
	__u64 started_ns;   /* of the process: a number may be given again */
};

/* ENDS: its threads have ended, and the kernel is about to free it. */
enum { LIVES, ENDS, ENDED };

struct tempos_user {
	__u64 signal;       /* a process's own, as long as it is not freed */
	struct tempos_usage usage;
	__u32 pid;          /* 0: nobody */
	__u32 state;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_USERS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct tempos_user);
} users SEC(".maps");

/* Their places there, by process. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_USERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} users_at SEC(".maps");

/* How many places of each array have been given away, or a few more than it has. */
struct tempos_filled {
	__u64 users;
	__u64 uses;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct tempos_filled);
} filled SEC(".maps");

/* Processes that user space found out to be users: the iterator makes them such. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_USERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u8);
} sought SEC(".maps");

/* How long threads waited that have ended, the first of each process aside; by process. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_USERS);
	__type(key, __u32);
	__type(value, __u64);
} waited SEC(".maps");

__u64 lost_processes_for_want_of_room = 0;

static __always_inline struct tempos_filled *filled_now(void)
{
	const __u32 only = 0;

	return bpf_map_lookup_elem(&filled, &only);
}

/* The next free place; `most`: there is none. */
static __always_inline __u32 one_more(__u64 *count, __u32 most)
{
	return *count < most ? __sync_fetch_and_add(count, 1) : most;
}

static __always_inline struct tempos_user *user_of(__u32 pid)
{
	__u32 *at = bpf_map_lookup_elem(&users_at, &pid);

	return at ? bpf_map_lookup_elem(&users, at) : NULL;
}

/* From now on the process of this thread is a user. */
static __always_inline void add_user(const struct task_struct *task)
{
	__u64 signal = (__u64)BPF_CORE_READ(task, signal);
	__u32 pid = BPF_CORE_READ(task, tgid), at;
	struct tempos_filled *count = filled_now();
	struct tempos_user *user = user_of(pid);

	if (user) {
		/* Another process may have its number by now. */
		if (user->signal != signal) {
			user->signal = signal;
			user->state = LIVES;
		}
		return;
	}
	at = count ? one_more(&count->users, MAX_USERS) : MAX_USERS;
	user = bpf_map_lookup_elem(&users, &at);
	if (!user) {
		__sync_fetch_and_add(&lost_processes_for_want_of_room, 1);
		return;
	}
	user->signal = signal;
	user->pid = pid;
	if (bpf_map_update_elem(&users_at, &pid, &at, BPF_NOEXIST)) {
		/* Another CPU was first, or there is no memory. */
		user->signal = 0;
		user->pid = 0;
		if (!bpf_map_lookup_elem(&users_at, &pid))
			__sync_fetch_and_add(&lost_processes_for_want_of_room, 1);
	}
}

static __always_inline void usage_of(struct tempos_usage *usage, const struct task_struct *task)
{
	const struct task_struct___used *used = (const void *)task;

	usage->min_flt = BPF_CORE_READ(used, min_flt);
	usage->maj_flt = BPF_CORE_READ(used, maj_flt);
	usage->cpu_ns = BPF_CORE_READ(used, se.sum_exec_runtime);
	usage->wait_ns = BPF_CORE_READ(used, sched_info.run_delay);
	usage->started_ns = BPF_CORE_READ(used, group_leader, start_time);
}

static __always_inline void summed_up(struct tempos_usage *usage, const struct signal_struct *signal)
{
	usage->min_flt = BPF_CORE_READ(signal, min_flt);
	usage->maj_flt = BPF_CORE_READ(signal, maj_flt);
	usage->cpu_ns = BPF_CORE_READ(signal, sum_sched_runtime);
}

SEC("?tp_btf/sched_process_exit")
int BPF_PROG(tempos_exit, struct task_struct *task)
{
	__u64 wait_ns = task->sched_info.run_delay, *sum;
	__u32 pid = task->tgid;

	if (task->pid == pid)
		return 0;
	sum = bpf_map_lookup_elem(&waited, &pid);
	if (sum)
		__sync_fetch_and_add(sum, wait_ns);
	else
		bpf_map_update_elem(&waited, &pid, &wait_ns, BPF_ANY);
	return 0;
}

SEC("?tp_btf/sched_process_free")
int BPF_PROG(tempos_free, struct task_struct *task)
{
	__u32 pid = task->tgid;
	struct tempos_user *user;
	__u64 *sum;

	if (task->pid != pid)
		return 0;
	user = user_of(pid);
	if (user && user->signal == (__u64)task->signal) {
		user->signal = 0;
		usage_of(&user->usage, task);
		summed_up(&user->usage, task->signal);
		sum = bpf_map_lookup_elem(&waited, &pid);
		user->usage.wait_ns += sum ? *sum : 0;
		user->state = ENDED;
	}
	bpf_map_delete_elem(&waited, &pid);
	return 0;
}

/* A walk over the threads of a process. */
struct threads {
	__u64 head;
	__u64 next;
	__u64 last;         /* 0: none lives */
	struct tempos_usage sum;
};

static long add_thread(__u32 index, struct threads *threads)
{
	const struct list_head *node = (const void *)threads->next;
	struct tempos_usage usage;

	if (!node || threads->next == threads->head)
		return 1;
	usage_of(&usage, (const void *)(threads->next - bpf_core_field_offset(struct task_struct___used, thread_node)));
	threads->sum.min_flt += usage.min_flt;
	threads->sum.maj_flt += usage.maj_flt;
	threads->sum.cpu_ns += usage.cpu_ns;
	threads->sum.wait_ns += usage.wait_ns;
	threads->sum.started_ns = usage.started_ns;
	threads->last = threads->next;
	threads->next = (__u64)BPF_CORE_READ(node, next);
	return 0;
}

static __always_inline unsigned int changes(const struct signal_struct *signal)
{
	return BPF_CORE_READ(signal, stats_lock.seqcount.seqcount.sequence);
}

/*
 * One try; the user's place. A thread that ends leaves its process and is summed up at once, and the kernel counts how
 * often that was.
 */
static long sum_up(__u32 tries, __u32 *at)
{
	struct tempos_user *user = bpf_map_lookup_elem(&users, at);
	const struct signal_struct *signal;
	struct threads threads = {};
	unsigned int before;
	__u64 *sum;
	__u32 pid;

	if (!user || !user->signal)
		return 1;
	pid = user->pid;
	signal = (const void *)user->signal;
	before = changes(signal);
	threads.head = (__u64)signal + bpf_core_field_offset(struct signal_struct, thread_head);
	threads.next = (__u64)BPF_CORE_READ(signal, thread_head.next);
	summed_up(&threads.sum, signal);
	bpf_loop(MAX_LOOPS, add_thread, &threads, 0);
	if (changes(signal) != before && tries + 1 < TRIES)
		return 0;
	/* It has been freed meanwhile, and all of it is there. */
	if (user->signal != (__u64)signal)
		return 1;
	sum = bpf_map_lookup_elem(&waited, &pid);
	threads.sum.wait_ns += sum ? *sum : 0;
	if (threads.last)
		user->usage = threads.sum;
	user->state = threads.last ? LIVES : ENDS;
	return 1;
}

static long look_at_user(__u32 at, void *nothing)
{
	bpf_loop(TRIES, sum_up, &at, 0);
	return 0;
}

/* Attached nowhere: user space has it run. */
SEC("?raw_tp/tempos_look")
int tempos_look(void *context)
{
	struct tempos_filled *count = filled_now();

	if (count)
		bpf_loop(count->users < MAX_USERS ? count->users : MAX_USERS, look_at_user, NULL, 0);
	return 0;
}

/* A thread that lives, and what is summed up of those of its process that do not. */
struct tempos_thread {
	struct tempos_usage usage;
	struct tempos_usage gone;
	__u32 pid;
	__u32 id;
	char comm[COMM_LEN];
};

SHOWN(tempos_thread);

SEC("?iter/task")
int tempos_threads(struct bpf_iter__task *context)
{
	struct task_struct *task = context->task;
	struct tempos_thread thread = {};

	if (!task)
		return 0;
	thread.pid = BPF_CORE_READ(task, tgid);
	thread.id = BPF_CORE_READ(task, pid);
	usage_of(&thread.usage, task);
	summed_up(&thread.gone, BPF_CORE_READ(task, signal));
	BPF_CORE_READ_STR_INTO(&thread.comm, task, comm);
	bpf_seq_write(context->meta->seq, &thread, sizeof(thread));
	return 0;
}

SEC("?iter/task")
int tempos_sought(struct bpf_iter__task *context)
{
	struct task_struct *task = context->task;
	__u32 pid;

	if (!task)
		return 0;
	pid = BPF_CORE_READ(task, tgid);
	if (bpf_map_lookup_elem(&sought, &pid))
		add_user(task);
	return 0;
}

#endif
