/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Time that a program spends on nothing: TEMPOS_BENCH_DELAY multiplications, each waiting for the one
 * before. Only a copy of a program that a benchmark slows down on purpose includes this.
 */
#pragma once

static __always_inline void tempos_bench_delay(void)
{
	unsigned long long value = 3;

#pragma unroll
	for (int i = 0; i < TEMPOS_BENCH_DELAY; i++)
		asm volatile("%0 *= 3" : "+r"(value));
}
