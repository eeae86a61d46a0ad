/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The fast path: forwards datagrams at the earliest point of reception. How a frame is decided on is drawn in
 * decide.h, the quick way of most of them in quick.h; here are the programs that are attached, and those that go with them.
 *
 *   tempos_fastpath      every frame of an interface
 *   tempos_timed         the same where latency is to be measured (latency.h)
 *   tempos_deliver       each copy of an event with several groups, on its way out (fanout.h)
 *   tempos_try_broadcast nowhere: tells whether this kernel can broadcast
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

/* What writes journals is of both kinds of programs. */
#define CONTEXT struct xdp_md
#define LOAD_BYTES bpf_xdp_load_bytes
#define IN_ONE_PIECE

#include "decide.h"
#include "fanout.h"
#include "maps.h"
#include "quick.h"

SEC("xdp")
int tempos_fastpath(struct xdp_md *ctx)
{
	return run(ctx, false);
}

/* The "?": loaded only where user space asks for it. */
SEC("?xdp")
int tempos_timed(struct xdp_md *ctx)
{
	return run(ctx, true);
}

/* What the copies of events with several groups pass on their way out; see fanout.h. */
SEC("xdp/devmap")
int tempos_deliver(struct xdp_md *ctx)
{
	return deliver(ctx);
}

/*
 * Whether this kernel can broadcast into a devmap: a test run gives XDP_REDIRECT if it can. Others answer
 * an unknown flag with XDP_ABORTED.
 */
SEC("xdp")
int tempos_try_broadcast(struct xdp_md *ctx)
{
	return bpf_redirect_map(&egress, 0, BPF_F_BROADCAST);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
