/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which of the two sockets that share the data port a datagram goes to: that of its topic's class.
 *
 *      datagram for the port
 *        |
 *      topic     the first byte behind the UDP header, or    ---- none: best effort
 *        |       the two behind that
 *        |
 *      class     topics[topic].quality                       ---- no such topic: best effort
 *        |
 *      socket    sockets[class]                              ---- closed: the kernel chooses
 *
 * Runs where the kernel looks a socket up, so that each class has a receive buffer of its own from the first
 * byte on. A context's data begins at the UDP header; payload may lie outside of what can be read directly,
 * which is why it is copied out. Nothing is dropped or counted here: whoever reads the socket does.
 */
#include <linux/bpf.h>
#include <linux/udp.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "topics.h"

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, TEMPOS_QUALITIES);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

SEC("sk_reuseport")
int tempos_selector(struct sk_reuseport_md *datagram)
{
	const struct tempos_topic *topic = NULL;
	__u32 quality = TEMPOS_BQ;
	__u8 id[TEMPOS_WIDE_ID_LEN];

	if (!bpf_skb_load_bytes(datagram, sizeof(struct udphdr), id, 1)) {
		__u32 row = id[0];

		/* Without an id there it stands by itself, which is no topic's row. */
		if (row == TEMPOS_WIDE && !bpf_skb_load_bytes(datagram, sizeof(struct udphdr), id, sizeof(id)))
			row = row_of_wide(id + 1);
		topic = bpf_map_lookup_elem(&topics, &row);
	}
	if (topic && topic->quality < TEMPOS_QUALITIES)
		quality = topic->quality;
	bpf_sk_select_reuseport(datagram, &sockets, &quality, 0);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
