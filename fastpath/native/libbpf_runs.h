/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running programs on frames of our own (BPF_PROG_TEST_RUN), many of them without Python in between, and the
 * kernel's statistics of runs.
 */
#ifndef TEMPOS_LIBBPF_RUNS_H
#define TEMPOS_LIBBPF_RUNS_H

#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

struct tempos_test_run {
	__u32 retval;
	__u32 duration_ns;
	__u32 data_size_out;
};

static struct xdp_md frame_context(__u32 size, __u32 ingress_ifindex)
{
	return (struct xdp_md){.data_end = size, .ingress_ifindex = ingress_ifindex};
}

static int tempos_run(int program_fd, const void *data_in, __u32 size_in, void *data_out, __u32 size_out,
		      __u32 ingress_ifindex, __u32 repeat, struct tempos_test_run *out)
{
	struct xdp_md context = frame_context(size_in, ingress_ifindex);
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = data_in, .data_size_in = size_in,
		    .data_out = data_out, .data_size_out = size_out, .repeat = (int)repeat);
	int error;

	if (ingress_ifindex) {
		opts.ctx_in = &context;
		opts.ctx_size_in = sizeof(context);
	}
	error = bpf_prog_test_run_opts(program_fd, &opts);
	out->retval = opts.retval;
	out->duration_ns = opts.duration;
	out->data_size_out = opts.data_size_out;
	return error;
}

static int tempos_run_live(int program_fd, const void *data_in, __u32 size_in, __u32 ingress_ifindex,
			   __u32 repeat, __u32 batch)
{
	struct xdp_md context = frame_context(size_in, ingress_ifindex);
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = data_in, .data_size_in = size_in, .ctx_in = &context,
		    .ctx_size_in = sizeof(context), .repeat = (int)repeat, .batch_size = batch,
		    .flags = BPF_F_TEST_XDP_LIVE_FRAMES);

	return bpf_prog_test_run_opts(program_fd, &opts);
}

/*
 * Runs the program once on each of `count` frames that lie one after another; stops at the first
 * error of the kernel and gives how many ran.
 */
static int tempos_run_each(int program_fd, const __u8 *frames, const __u32 *sizes, __u32 count,
			   __u32 ingress_ifindex, __u32 *retvals)
{
	for (__u32 i = 0; i < count; frames += sizes[i], i++) {
		struct tempos_test_run result;
		int error = tempos_run(program_fd, frames, sizes[i], NULL, 0, ingress_ifindex, 1, &result);

		if (error)
			return i ? (int)i : error;
		retvals[i] = result.retval;
	}
	return (int)count;
}

/* Runs a program of a section raw_tp/... once, on nothing. */
static int tempos_call(int program_fd)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts);

	return bpf_prog_test_run_opts(program_fd, &opts);
}

static int tempos_stats_enable(void)
{
	return bpf_enable_stats(BPF_STATS_RUN_TIME);
}

#endif
