/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * System calls, as they end: the kernel has kept the registers that they began with, so one hook tells both what was
 * asked for and what came of it, and nothing has to be remembered in between.
 *
 * Every system call of the machine passes here while a tool looks at any: what is of no interest leaves first.
 *
 * Rules:  user space fills `calls`, so numbers stand in one place (syscalls.py): those of the machine's own programs,
 *         and from MAX_CALLS on those of 32-bit ones, where the same number is another call.
 *         A call that a signal interrupts and the kernel begins anew ends more than once: only the last end counts.
 */
#ifndef TEMPOS_CALLS_H
#define TEMPOS_CALLS_H

#include "observe.h"

#define MAX_CALLS 512
/* The kernel's own numbers, which no user sees: ERESTARTSYS to ERESTART_RESTARTBLOCK. */
#define BEGUN_ANEW_FIRST (-516)
#define BEGUN_ANEW_LAST (-512)

/* Fixed at load: what a call of this number is to the tool; 0: nothing. */
const volatile __u8 calls[2 * MAX_CALLS] = {};

struct call {
	const struct pt_regs *registers;
	__u32 kind;
	bool narrow; /* of a 32-bit program */
};

/* Whether the call that ends is one of those; then `call` says which. */
static __always_inline bool is_ours(struct call *call, const struct pt_regs *registers)
{
	__u64 number = registers->orig_ax;

	if (number >= MAX_CALLS || !(calls[number] | calls[number + MAX_CALLS]))
		return false;
	call->narrow = bpf_get_current_task_btf()->thread_info.status & TS_COMPAT;
	call->kind = calls[call->narrow ? number + MAX_CALLS : number];
	call->registers = registers;
	return call->kind;
}

static __always_inline bool is_begun_anew(long result)
{
	return result >= BEGUN_ANEW_FIRST && result <= BEGUN_ANEW_LAST;
}

/* An argument of the call, 0 to 4. */
static __always_inline __u64 argument(const struct call *call, int which)
{
	const struct pt_regs *r = call->registers;

	if (call->narrow)
		return (__u32)(which == 0 ? r->bx : which == 1 ? r->cx : which == 2 ? r->dx : which == 3 ? r->si : r->di);
	return which == 0 ? r->di : which == 1 ? r->si : which == 2 ? r->dx : which == 3 ? r->r10 : r->r8;
}

#endif
