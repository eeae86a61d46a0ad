/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From a frame to the datagram in it: a cursor that moves over headers and never past the end.
 *
 * Rules: parse_* give TEMPOS_FORWARDED when the packet is, so far, one for the fast path, else the
 * reason why not. They demand what the kernel's own stack demands of a datagram before it delivers it,
 * so that nothing is forwarded here that the slow path would never see. The cheap questions come first:
 * traffic of others costs a few comparisons and no checksum.
 */
#ifndef TEMPOS_PARSE_H
#define TEMPOS_PARSE_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "checksum.h"

/* Of the first eight bytes of a frame, those of the MAC that it is for. */
#define MAC_OF_START bpf_cpu_to_be64(~0xffffULL)
#define IP_MORE_FRAGMENTS_OR_OFFSET 0x3fff
#define IP_HEADER_WORDS 5
#define IP_VERSION_4_PLAIN (4 << 4 | IP_HEADER_WORDS)
/* Fragment, TTL and protocol lie side by side; that of a whole UDP packet, whatever its TTL. */
#define IP_FRAGMENT_AND_PROTOCOL bpf_htonl(IP_MORE_FRAGMENTS_OR_OFFSET << 16 | 0xff)
#define IP_WHOLE_UDP bpf_htonl(IPPROTO_UDP)

/* As <linux/if_vlan.h> has it, which user space does not. */
#define VLAN_HLEN 4

struct cursor {
	void *at;
	void *end;
};

/* A datagram addressed to the broker; every pointer but `payload` is checked for its whole header. */
struct packet {
	struct ethhdr *eth;
	struct iphdr *ip;
	struct udphdr *udp;
	__u8 *payload;      /* one byte of it is checked */
	__u32 payload_len;  /* by the UDP header */
	void *end;
};

/*
 * A 16-bit field of a header as a number. Up to 6.12 at least the verifier forgets at a byte swap that no more
 * than 16 bits can be set, and refuses to add the number to a pointer; a plain mask is left out by the compiler,
 * which does not forget.
 */
static __always_inline __u64 number(__be16 field)
{
	__u64 number = bpf_ntohs(field);

	asm volatile("%0 &= 0xffff" : "+r"(number));
	return number;
}

/* Moves over the next `size` bytes; false if the frame ends before. */
static __always_inline bool take(struct cursor *cursor, __u32 size)
{
	void *next = cursor->at + size;

	if (next > cursor->end)
		return false;
	cursor->at = next;
	return true;
}

/* From where on a frame is as it would be without a tag that was put in front on its way out, but for its MACs. */
static __always_inline const void *past_tag(const void *frame, const void *end)
{
	const struct ethhdr *eth = frame;

	return (const void *)(eth + 1) <= end && eth->h_proto == bpf_htons(ETH_P_8021Q) ? frame + VLAN_HLEN : frame;
}

/* Addresses as they lie in a frame are read as whole words. */
typedef __u64 __attribute__((may_alias)) frame_start;
typedef __u32 __attribute__((may_alias)) frame_word;

/* Whether the kernel's stack would take a frame for this machine's: it goes by the interface's MAC, never by others. */
static __always_inline bool is_for_us(const struct ethhdr *eth, const volatile struct tempos_settings *settings)
{
	__u64 start = *(const frame_start *)eth;
	__u32 count = settings->mac_count;

	/* Most interfaces have one, and who has none listens to nothing. */
	if (!((settings->macs[0] ^ start) & MAC_OF_START))
		return true;
	for (__u32 i = 1; i < TEMPOS_MAX_MACS && i < count; i++)
		if (!((settings->macs[i] ^ start) & MAC_OF_START))
			return true;
	return false;
}

static __always_inline enum tempos_reason
parse_ethernet(struct cursor *cursor, struct packet *packet, const volatile struct tempos_settings *settings)
{
	struct ethhdr *eth = cursor->at;
	__be16 protocol;

	if (!take(cursor, sizeof(*eth)))
		return TEMPOS_TRUNCATED;
	packet->eth = eth;
	if (!is_for_us(eth, settings))
		return eth->h_dest[0] & 1 ? TEMPOS_NOT_UNICAST : TEMPOS_OTHER_MAC;
	/* struct ethhdr is packed: read as its member, the protocol would be put together from bytes. */
	protocol = *(__be16 *)((void *)eth + offsetof(struct ethhdr, h_proto));
	if (protocol == bpf_htons(ETH_P_IP))
		return TEMPOS_FORWARDED;
	if (protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD))
		return TEMPOS_VLAN;
	return TEMPOS_NOT_IPV4;
}

static __always_inline enum tempos_reason parse_ip(struct cursor *cursor, struct packet *packet)
{
	struct iphdr *ip = cursor->at;

	if (!take(cursor, sizeof(*ip)))
		return TEMPOS_TRUNCATED;
	packet->ip = ip;
	/* Both are in one byte, and nearly always the same ones. */
	if (*(const __u8 *)ip != IP_VERSION_4_PLAIN) {
		if (ip->version != 4)
			return TEMPOS_NOT_IPV4;
		return ip->ihl > IP_HEADER_WORDS ? TEMPOS_IP_OPTIONS : TEMPOS_BAD_LENGTH;
	}
	/* By its place: as a field of two bytes it would be read in two. */
	if ((*(const frame_word *)((const void *)ip + offsetof(struct iphdr, frag_off)) & IP_FRAGMENT_AND_PROTOCOL) == IP_WHOLE_UDP)
		return TEMPOS_FORWARDED;
	return ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS_OR_OFFSET) ? TEMPOS_FRAGMENT : TEMPOS_NOT_UDP;
}

/* Bytes after the IP packet are padding (a 60-byte frame) and go along untouched. */
static __always_inline enum tempos_reason parse_udp(struct cursor *cursor, struct packet *packet)
{
	__u64 ip_len = number(packet->ip->tot_len);
	struct udphdr *udp = cursor->at;
	__u32 udp_len;

	if (!take(cursor, sizeof(*udp)))
		return TEMPOS_TRUNCATED;
	packet->udp = udp;
	udp_len = bpf_ntohs(udp->len);
	if ((void *)packet->ip + ip_len > cursor->end || udp_len < sizeof(*udp) ||
	    ip_len != sizeof(struct iphdr) + udp_len)
		return TEMPOS_BAD_LENGTH;
	packet->payload_len = udp_len - sizeof(*udp);
	return TEMPOS_FORWARDED;
}

static __always_inline enum tempos_reason
parse_destination(const struct packet *packet, const volatile struct tempos_settings *settings)
{
	__be32 address = packet->ip->daddr;
	__u32 count = settings->listen_count;

	/* The count is a constant to the verifier: only the addresses in use cost an instruction. */
	for (__u32 i = 0; i < TEMPOS_MAX_LISTEN && i < count; i++)
		if (settings->listen[i] == address)
			return packet->udp->dest == settings->port ? TEMPOS_FORWARDED : TEMPOS_OTHER_PORT;
	return TEMPOS_OTHER_ADDRESS;
}

/*
 * Whether a source may be one that the kernel's stack refuses: of networks that no packet on a wire is from, or an
 * address of this machine's own, broadcasts included. It is the stack that decides; it may be set to take some of these.
 */
static __always_inline bool is_suspect(const struct iphdr *ip, const volatile struct tempos_settings *settings)
{
	const __u8 *byte = (const __u8 *)&ip->saddr;
	__u8 like = settings->first[byte[0]] & settings->last[byte[3]];
	__be32 source;
	__u32 count;

	/* Nearly all that come here end with this: no suspect begins and ends so. */
	if (!like)
		return false;
	if (like & TEMPOS_NO_HOST)
		return true;
	source = ip->saddr;
	count = settings->suspect_count;
#pragma nounroll
	for (__u32 i = 0; i < TEMPOS_MAX_SUSPECTS && i < count; i++)
		if (settings->suspects[i] == source)
			return true;
	return false;
}

/* Headers and whom they are for, from a cursor at the Ethernet header to one behind them: the cheap questions. */
static __always_inline enum tempos_reason parse_headers(struct cursor *cursor, struct packet *packet,
							const volatile struct tempos_settings *settings)
{
	enum tempos_reason reason;

	packet->end = cursor->end;
	if ((reason = parse_ethernet(cursor, packet, settings)) != TEMPOS_FORWARDED ||
	    (reason = parse_ip(cursor, packet)) != TEMPOS_FORWARDED ||
	    (reason = parse_udp(cursor, packet)) != TEMPOS_FORWARDED)
		return reason;
	return parse_destination(packet, settings);
}

/* The others, from a cursor behind the headers, of what is for the broker. */
static __always_inline enum tempos_reason parse_rest(struct cursor cursor, struct packet *packet,
						     const volatile struct tempos_settings *settings)
{
	if (!ip_checksum_holds(packet->ip))
		return TEMPOS_BAD_IP_CHECKSUM;
	if (is_suspect(packet->ip, settings))
		return TEMPOS_MARTIAN_SOURCE;
	if (!packet->payload_len)
		return TEMPOS_EMPTY;
	packet->payload = cursor.at;
	/* The lengths were compared already; this one is for the verifier. */
	return take(&cursor, 1) ? TEMPOS_FORWARDED : TEMPOS_TRUNCATED;
}

/* The whole way down to the topic byte, from a cursor at the Ethernet header. */
static __always_inline enum tempos_reason parse(struct cursor cursor, struct packet *packet,
						const volatile struct tempos_settings *settings)
{
	enum tempos_reason reason = parse_headers(&cursor, packet, settings);

	return reason == TEMPOS_FORWARDED ? parse_rest(cursor, packet, settings) : reason;
}

#endif
