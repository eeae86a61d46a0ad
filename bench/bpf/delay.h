/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Time that a program spends on nothing: TEMPOS_BENCH_DELAY multiplications, each waiting for the one
 * before, and the program waiting for the last: its context is what it was, plus nothing that only they
 * tell. Else the processor would do them beside the program's own work.
 * Only a copy of a program that a benchmark slows down on purpose includes this.
 */
#pragma once

static __always_inline void *tempos_bench_delayed(void *ctx)
{
	unsigned long long value = 3;

#pragma unroll
	for (int i = 0; i < TEMPOS_BENCH_DELAY; i++)
		asm volatile("%0 *= 3" : "+r"(value));
	asm volatile("%0 &= 0" : "+r"(value));
	return (char *)ctx + value;
}
