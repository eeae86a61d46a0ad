/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Frames that XDP programs redirected and that came nowhere: between which interfaces, why, by which program, and of
 * which topic where that is the fast path's.
 *
 *   xdp_redirect_err   refused at once: no such slot, the interface is down, takes none, the frame is too big for it
 *   xdp_devmap_xmit    an interface was given up to 16 frames and took fewer: the last of them are gone
 *   xdp_exception      a program aborted or answered what no program may, or its frame could not be sent
 *
 * None of them is given the frame, but it is there still (at_hand.h). So nothing is noted of a frame that arrives: what
 * goes well pays nothing for this, whether anybody watches or not.
 *
 * Rules: a topic is told only of a frame that the fast path's program decided on; of one that is not found, none.
 */
#include "at_hand.h"
#include "observe.h"

#define MAX_ROWS 16384
#define UNKNOWN 0xffffffff
#define WIDE 255
/* Generic mode, the driver's, and the card's. */
#define XDP_MODES 3

enum { XDP_MAP_DEVMAP = 14, XDP_MAP_DEVMAP_HASH = 25 };

/* What became of it. */
enum { REFUSED = 1, NOT_TAKEN, EXCEPTION };

struct tempos_redirect {
	__u32 namespace;
	__u32 from_index;    /* of interfaces, 0: not known */
	__u32 to_index;
	__u32 topic;
	__u32 program;       /* its id; 0: not known */
	__u32 code;          /* errno, or of an exception what the program answered */
	__u32 what;
};

struct tempos_failed {
	__u64 frames;
	char from_name[NAME_LEN];
	char to_name[NAME_LEN];
	char program[NAME_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ROWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct tempos_redirect);
	__type(value, struct tempos_failed);
} failures SEC(".maps");

__u64 lost_frames_for_want_of_room = 0;

static __always_inline const struct net_device___xdp *xdp_of(const struct net_device *device)
{
	return (const struct net_device___xdp *)device;
}

static __always_inline void fail(struct tempos_redirect *key, const struct net_device *from,
				 const struct net_device *to, const struct bpf_prog *program)
{
	struct tempos_failed *failed;

	key->namespace = BPF_CORE_READ(from ? from : to, nd_net.net, ns.inum);
	if (from)
		key->from_index = BPF_CORE_READ(from, ifindex);
	if (to)
		key->to_index = BPF_CORE_READ(to, ifindex);
	if (program)
		key->program = BPF_CORE_READ(program, aux, id);
	failed = bpf_map_lookup_elem(&failures, key);
	if (!failed) {
		struct tempos_failed none = {};

		if (from)
			BPF_CORE_READ_STR_INTO(&none.from_name, xdp_of(from), name);
		if (to)
			BPF_CORE_READ_STR_INTO(&none.to_name, xdp_of(to), name);
		if (program)
			BPF_CORE_READ_STR_INTO(&none.program, program, aux, name);
		bpf_map_update_elem(&failures, key, &none, BPF_NOEXIST);
		failed = bpf_map_lookup_elem(&failures, key);
	}
	if (failed)
		__sync_fetch_and_add(&failed->frames, 1);
	else
		__sync_fetch_and_add(&lost_frames_for_want_of_room, 1);
}

static __always_inline bool begins(const char *name, const char *with, int length)
{
	for (int i = 0; i < length; i++)
		if (name[i] != with[i])
			return false;
	return true;
}

/* Whether it is one of those that decide on events: tempos_fastpath or tempos_timed. */
static __always_inline bool is_ours(const struct bpf_prog *program)
{
	char name[NAME_LEN] = {};

	if (!program)
		return false;
	BPF_CORE_READ_STR_INTO(&name, program, aux, name);
	return begins(name, "tempos_fastpath", 15) || begins(name, "tempos_timed", 13);
}

/* What begins at `data`: a datagram's topic, as the fast path's program left it. */
static __always_inline __u32 topic_of(const void *data)
{
	struct headers headers;
	__u32 first = 0;

	if (!data || bpf_probe_read_kernel(&headers, sizeof(headers), data) || !is_datagram(&headers))
		return UNKNOWN;
	first = headers.payload[0];
	return first == WIDE ? headers.payload[1] << 8 | headers.payload[2] : first;
}

/* The arguments of xdp_redirect_err. */
enum { FROM, PROGRAM, TARGET, ERROR, MAP_TYPE };

/* The interface of a slot; NULL: there is none. Some kernels let no program load the argument, a void pointer. */
static __always_inline const struct net_device *target_of(const __u64 *arguments)
{
	const struct bpf_dtab_netdev *slot = NULL;
	__u32 type = arguments[MAP_TYPE];

	if (type != XDP_MAP_DEVMAP && type != XDP_MAP_DEVMAP_HASH)
		return NULL;
	bpf_probe_read_kernel(&slot, sizeof(slot), &arguments[TARGET]);
	return slot ? BPF_CORE_READ(slot, dev) : NULL;
}

SEC("?tp_btf/xdp_redirect_err")
int tempos_refused(const __u64 *arguments)
{
	const struct net_device *from = (const struct net_device *)arguments[FROM];
	const struct bpf_prog *program = (const struct bpf_prog *)arguments[PROGRAM];
	struct tempos_redirect key = {.what = REFUSED, .code = -(int)arguments[ERROR], .topic = UNKNOWN};

	if (is_ours(program))
		key.topic = topic_of(frame_at_hand(arguments, from));
	fail(&key, from, target_of(arguments), program);
	return 0;
}

/* The program that an interface has in its driver. */
static __always_inline const struct bpf_prog *program_of(const struct net_device *device)
{
	const struct bpf_xdp_link *link = BPF_CORE_READ(xdp_of(device), xdp_state[XDP_IN_DRIVER].link);

	return link ? BPF_CORE_READ(link, link.prog) : BPF_CORE_READ(xdp_of(device), xdp_state[XDP_IN_DRIVER].prog);
}

SEC("?tp_btf/xdp_devmap_xmit")
int BPF_PROG(tempos_unsent, const struct net_device *from, const struct net_device *to, int sent, int dropped,
	     int error)
{
	struct tempos_redirect key = {.what = NOT_TAKEN, .code = -error};
	const struct bpf_prog *program;
	const struct xdp_dev_bulk_queue *queue;
	bool ours;

	if (dropped <= 0)
		return 0;
	program = program_of(from);
	ours = is_ours(program);
	queue = of_this_cpu(BPF_CORE_READ(xdp_of(to), xdp_bulkq));
	for (int i = 0; i < BULK && i < dropped; i++) {
		key.topic = ours ? topic_of(queued(queue, sent + i)) : UNKNOWN;
		fail(&key, from, to, program);
	}
	return 0;
}

SEC("?tp_btf/xdp_exception")
int BPF_PROG(tempos_excepted, const struct net_device *device, const struct bpf_prog *program, __u32 verdict)
{
	struct tempos_redirect key = {.what = EXCEPTION, .code = verdict, .topic = UNKNOWN};

	/* A redirect that failed has been told. */
	if (verdict == XDP_REDIRECT)
		return 0;
	fail(&key, verdict == XDP_TX ? NULL : device, verdict == XDP_TX ? device : NULL, program);
	return 0;
}
