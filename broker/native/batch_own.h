/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Datagrams whose headers we make ourselves, for the source is to stay the sender's: by a raw socket, which may name any
 * address and port. The kernel routes them, and fills in what is 0 of identification and header checksum. It cuts none of
 * them, so what is too large for the way is cut here.
 */
#ifndef TEMPOS_BATCH_OWN_H
#define TEMPOS_BATCH_OWN_H

#include "batch_types.h"

#define DEFAULT_TTL 64

static uint64_t sum_words(uint64_t sum, const uint8_t *at, uint32_t length)
{
	uint16_t word;

	for (; length > 1; at += 2, length -= 2) {
		memcpy(&word, at, sizeof(word));
		sum += word;
	}
	if (length) {
		word = 0;
		memcpy(&word, at, 1);
		sum += word;
	}
	return sum;
}

static uint16_t udp_check(const struct own_headers *own, const uint8_t *payload, uint32_t length)
{
	uint64_t sum = (uint64_t)own->ip.saddr + own->ip.daddr + htons(IPPROTO_UDP) + own->udp.len;
	uint16_t check;

	sum = sum_words(sum + own->udp.source + own->udp.dest + own->udp.len, payload, length);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	check = (uint16_t)~sum;
	return check ? check : 0xffff;
}

static void own_headers(struct own_headers *own, const struct slot *s, const struct message *m, const uint8_t *payload)
{
	memset(own, 0, sizeof(*own));
	own->ip.version = 4;
	own->ip.ihl = sizeof(own->ip) / 4;
	own->ip.tos = m->tos < 0 ? m->raw_tos : (uint8_t)m->tos;
	own->ip.tot_len = htons((uint16_t)(sizeof(*own) + s->length));
	own->ip.ttl = m->ttl == NO_TTL ? DEFAULT_TTL : (uint8_t)m->ttl;
	own->ip.protocol = IPPROTO_UDP;
	own->ip.saddr = s->from.sin_addr.s_addr;
	own->ip.daddr = m->to.sin_addr.s_addr;
	own->udp.source = s->from.sin_port;
	own->udp.dest = m->to.sin_port;
	own->udp.len = htons((uint16_t)(sizeof(own->udp) + s->length));
	own->udp.check = udp_check(own, payload, s->length);
}

/* The MTU of the way to a member, or 0. */
static int mtu_towards(const struct sockaddr_in *to)
{
	int mtu = 0, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t size = sizeof(mtu);

	if (fd < 0)
		return 0;
	if (connect(fd, (const struct sockaddr *)to, sizeof(*to)) < 0 ||
	    getsockopt(fd, IPPROTO_IP, IP_MTU, &mtu, &size) < 0)
		mtu = 0;
	close(fd);
	return mtu;
}

/* Send a datagram with headers of ours, which is too large for the way, in fragments; its error, or 0. */
static int send_own_fragments(int fd, const struct msghdr *whole)
{
	static uint16_t last_id;
	const struct own_headers *own = whole->msg_iov[0].iov_base;
	const uint8_t *payload = whole->msg_iov[1].iov_base;
	uint32_t length = (uint32_t)whole->msg_iov[1].iov_len + sizeof(own->udp), at = 0;
	int mtu = mtu_towards(whole->msg_name);
	uint32_t room = mtu > (int)sizeof(own->ip) + 8 ? (mtu - sizeof(own->ip)) & ~7u : 0;
	struct iphdr ip = own->ip;

	if (!room)
		return EMSGSIZE;
	if (!++last_id)
		last_id++;
	ip.id = htons(last_id);
	while (at < length) {
		uint32_t part = length - at < room ? length - at : room;
		uint32_t head = at ? 0 : sizeof(own->udp);
		struct iovec iov[3] = {
			{ .iov_base = &ip, .iov_len = sizeof(ip) },
			{ .iov_base = (void *)&own->udp, .iov_len = head },
			{ .iov_base = (void *)(payload + (at ? at - sizeof(own->udp) : 0)), .iov_len = part - head },
		};
		struct msghdr one = {
			.msg_name = whole->msg_name, .msg_namelen = whole->msg_namelen, .msg_iov = iov, .msg_iovlen = 3,
		};

		ip.tot_len = htons((uint16_t)(sizeof(ip) + part));
		ip.frag_off = htons((uint16_t)(at / 8 | (at + part < length ? IP_MF : 0)));
		if (sendmsg(fd, &one, MSG_DONTWAIT) < 0) {
			if (errno == EINTR)
				continue;
			return errno;
		}
		at += part;
	}
	return 0;
}

#endif
