/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a CPU did while a thread that was ready to run waited for it: a record for each wait that is longer than asked
 * for, with everything that ran there meanwhile.
 *
 *   sched_wakeup, sched_wakeup_new   a thread that is watched becomes ready
 *   sched_switch                     what leaves a CPU is written down there, with the time spent on interrupts in
 *                                    its time; one that is watched waits anew if it was pushed off; one that comes
 *                                    and has waited too long gets the CPU's last notes that fall into its wait
 *   irq_handler_entry and _exit,     time of interrupts, which the thread at hand does not want and cannot be
 *   softirq_entry and _exit          blamed for
 *
 * Where a thread has been moved to another CPU while it waited, the notes of both are handed on.
 */
#include "observe.h"

#define MAX_THREADS 65536
#define MAX_CPUS 1024
#define NOTES 128       /* that are kept of a CPU: a power of two */
#define TOLD 64         /* of them, at most, in a record */

/* Fixed at load. */
const volatile __u64 longer_ns = 1000000;

struct note {
	__u64 until;
	__u64 ran;      /* ns that the thread had the CPU, interrupts included */
	__u64 hard;     /* ns of those in interrupt handlers */
	__u64 soft;     /* and in soft interrupts: the network's receive path */
	__u32 pid;
	__u32 thread;   /* 0: the CPU was idle */
	char comm[COMM_LEN];
};

struct cpu {
	__u64 since;    /* the thread at hand has it */
	__u64 hard;     /* of the thread at hand */
	__u64 soft;
	__u64 hard_since;
	__u64 soft_since;
	__u64 next;     /* note */
	struct note notes[NOTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_CPUS);
	__type(key, __u32);
	__type(value, struct cpu);
} cpus SEC(".maps");

struct wait {
	__u64 since;
	__u32 cpu;
	__u32 pushed;   /* off its CPU, though it could have gone on */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_THREADS);
	__type(key, __u32);
	__type(value, struct wait);
} waits SEC(".maps");

struct tempos_pause {
	__u64 ns;       /* when it ended */
	__u64 waited;
	__u32 pid;
	__u32 thread;
	__u32 cpu;
	__u32 before;   /* the CPU where it began to wait */
	__u32 pushed;
	__u32 priority; /* the kernel's: below 100 real time, 100 to 139 for nice -20 to 19 */
	__u32 told;
	__u32 more;     /* notes were there that had no room, or were overwritten by then */
	char comm[COMM_LEN];
	__u64 ran[TOLD];
	__u64 hard[TOLD];
	__u64 soft[TOLD];
	__u32 pids[TOLD];
	__u32 threads[TOLD];
	__u32 where[TOLD];
	__u8 comms[TOLD * COMM_LEN];
};
SHOWN(tempos_pause);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} pauses SEC(".maps");

__u64 lost_pauses = 0;
__u64 lost_threads = 0;

static __always_inline struct cpu *this_cpu(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&cpus, &cpu);
}

static __always_inline bool is_watched(const struct task_struct *task)
{
	char comm[COMM_LEN] = {};

	if (only_comm)
		bpf_probe_read_kernel(comm, sizeof(comm), task->comm);
	return task->pid && wanted(task->tgid, comm);
}

static __always_inline void waits_from(const struct task_struct *task, __u32 cpu, __u64 now, bool pushed)
{
	struct wait wait = {.since = now, .cpu = cpu, .pushed = pushed};
	__u32 thread = task->pid;

	if (bpf_map_update_elem(&waits, &thread, &wait, BPF_ANY))
		__sync_fetch_and_add(&lost_threads, 1);
}

static __always_inline void write_down(struct cpu *cpu, const struct task_struct *task, __u64 now)
{
	struct note *note = &cpu->notes[cpu->next & (NOTES - 1)];

	note->until = now;
	note->ran = cpu->since ? now - cpu->since : 0;
	note->hard = cpu->hard;
	note->soft = cpu->soft;
	note->pid = task->tgid;
	note->thread = task->pid;
	bpf_probe_read_kernel(note->comm, sizeof(note->comm), task->comm);
	cpu->next++;
	cpu->since = now;
	cpu->hard = 0;
	cpu->soft = 0;
}

/* Adds what the notes of a CPU say of the time from `since` on, the latest first. */
static __always_inline void tell(struct tempos_pause *record, __u32 number, __u64 since)
{
	struct cpu *cpu = bpf_map_lookup_elem(&cpus, &number);

	for (__u32 i = 1; cpu && i <= TOLD; i++) {
		struct note *note = &cpu->notes[(cpu->next - i) & (NOTES - 1)];
		__u32 at = record->told;
		__u64 begun = note->until - note->ran;

		if (i > cpu->next || note->until <= since)
			return;
		if (at >= TOLD) {
			record->more = 1;
			return;
		}
		asm volatile("%0 &= %1" : "+r"(at) : "i"(TOLD - 1)); /* the verifier forgets the check */
		/* What the interrupts took before the wait began is not known apart from the rest: no more than the note. */
		record->ran[at] = begun < since ? note->until - since : note->ran;
		record->hard[at] = note->hard < record->ran[at] ? note->hard : record->ran[at];
		record->soft[at] = note->soft < record->ran[at] ? note->soft : record->ran[at];
		record->pids[at] = note->pid;
		record->threads[at] = note->thread;
		record->where[at] = number;
		__builtin_memcpy(&record->comms[at * COMM_LEN], note->comm, COMM_LEN);
		record->told = at + 1;
	}
	if (cpu)
		record->more = 1;
}

static __always_inline void has_waited(const struct task_struct *task, const struct wait *wait, __u64 now)
{
	struct tempos_pause *record = bpf_ringbuf_reserve(&pauses, sizeof(*record), 0);

	if (!record) {
		__sync_fetch_and_add(&lost_pauses, 1);
		return;
	}
	record->ns = now;
	record->waited = now - wait->since;
	record->pid = task->tgid;
	record->thread = task->pid;
	record->cpu = bpf_get_smp_processor_id();
	record->before = wait->cpu;
	record->pushed = wait->pushed;
	record->priority = task->prio;
	record->told = 0;
	record->more = 0;
	bpf_probe_read_kernel(record->comm, sizeof(record->comm), task->comm);
	tell(record, record->cpu, wait->since);
	if (wait->cpu != record->cpu)
		tell(record, wait->cpu, wait->since);
	submit(&pauses, record);
}

SEC("?tp_btf/sched_wakeup")
int BPF_PROG(tempos_woken, struct task_struct *task)
{
	if (is_watched(task))
		waits_from(task, task->thread_info.cpu, bpf_ktime_get_ns(), false);
	return 0;
}

SEC("?tp_btf/sched_wakeup_new")
int BPF_PROG(tempos_begun, struct task_struct *task)
{
	if (is_watched(task))
		waits_from(task, task->thread_info.cpu, bpf_ktime_get_ns(), false);
	return 0;
}

SEC("?tp_btf/sched_switch")
int BPF_PROG(tempos_switched, bool preempted, struct task_struct *from, struct task_struct *to,
	     unsigned int state)
{
	__u64 now = bpf_ktime_get_ns();
	struct cpu *cpu = this_cpu();
	__u32 thread = to->pid;
	struct wait *wait;

	if (!cpu)
		return 0;
	write_down(cpu, from, now);
	/* A preempted one has a state at times: it was about to sleep, and goes on from there. */
	if ((preempted || !state) && is_watched(from))
		waits_from(from, bpf_get_smp_processor_id(), now, true);
	if (!thread)
		return 0;
	wait = bpf_map_lookup_elem(&waits, &thread);
	if (!wait)
		return 0;
	if (now - wait->since >= longer_ns)
		has_waited(to, wait, now);
	bpf_map_delete_elem(&waits, &thread);
	return 0;
}

SEC("?tp_btf/irq_handler_entry")
int BPF_PROG(tempos_hard_begins)
{
	struct cpu *cpu = this_cpu();

	if (cpu)
		cpu->hard_since = bpf_ktime_get_ns();
	return 0;
}

SEC("?tp_btf/irq_handler_exit")
int BPF_PROG(tempos_hard_ends)
{
	struct cpu *cpu = this_cpu();

	if (cpu && cpu->hard_since) {
		cpu->hard += bpf_ktime_get_ns() - cpu->hard_since;
		cpu->hard_since = 0;
	}
	return 0;
}

SEC("?tp_btf/softirq_entry")
int BPF_PROG(tempos_soft_begins)
{
	struct cpu *cpu = this_cpu();

	if (cpu)
		cpu->soft_since = bpf_ktime_get_ns();
	return 0;
}

SEC("?tp_btf/softirq_exit")
int BPF_PROG(tempos_soft_ends)
{
	struct cpu *cpu = this_cpu();

	if (cpu && cpu->soft_since) {
		cpu->soft += bpf_ktime_get_ns() - cpu->soft_since;
		cpu->soft_since = 0;
	}
	return 0;
}
