/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to a broker, and its answers: section 4 of WIRE.md. */
#define _GNU_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "inside.h"

static const int retry_after_ms[] = {200, 400, 800, 1600, 3200};

int64_t tempos_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

uint64_t tempos_wall_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

__attribute__((format(printf, 3, 4))) int tempos_fail(struct tempos_link *link, int code, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(link->error, sizeof(link->error), format, arguments);
	va_end(arguments);
	return code;
}

const char *tempos_error(const struct tempos_link *link)
{
	return link->error;
}

int tempos_connected(struct tempos_link *link, const char *address, uint16_t port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd;

	if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
		return tempos_fail(link, TEMPOS_FAILED_ARGUMENT, "\"%s\" is no IPv4 address, such as 10.0.1.1", address);
	link->ip = to.sin_addr.s_addr;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		tempos_fail(link, TEMPOS_FAILED_SYSTEM, "%s:%u: %s", address, port, strerror(errno));
		if (fd >= 0)
			close(fd);
		return TEMPOS_FAILED_SYSTEM;
	}
	return fd;
}

/* Whether a datagram was not sent because there is no way from the address that the socket began with. */
static bool lacks_way(int error)
{
	static const int known[] = {EINVAL, EADDRNOTAVAIL, ENETUNREACH, EHOSTUNREACH, ENETDOWN, EDESTADDRREQ, ENOTCONN};

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (error == known[i])
			return true;
	return false;
}

/* A connected socket keeps the address that it began with, also when that is ours no more: it is let choose again. */
static int take_way(const struct tempos_link *link, int fd, uint16_t port)
{
	const struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = link->ip};
	const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};

	(void)!connect(fd, &nowhere, sizeof(nowhere));
	return connect(fd, (const struct sockaddr *)&to, sizeof(to));
}

int tempos_send(const struct tempos_link *link, int fd, uint16_t port, const void *bytes, size_t length)
{
	bool refused = false, moved = false;

	while (send(fd, bytes, length, 0) < 0) {
		/* An error may be that of an earlier datagram: this one has not been sent yet. */
		if (errno == ECONNREFUSED && !refused)
			refused = true;
		else if (lacks_way(errno) && !moved && !take_way(link, fd, port))
			moved = true;
		else
			return -1;
	}
	return 0;
}

uint32_t tempos_ours(const struct tempos_link *link)
{
	struct sockaddr_in ours = {0};
	socklen_t size = sizeof(ours);

	(void)getsockname(link->control, (struct sockaddr *)&ours, &size);
	return ours.sin_addr.s_addr;
}

int tempos_open_link(struct tempos_link *link, const char *address, uint16_t port)
{
	memset(link, 0, sizeof(*link));
	link->control = -1;
	if (getrandom(&link->client, sizeof(link->client), 0) != sizeof(link->client))
		return tempos_fail(link, TEMPOS_FAILED_SYSTEM, "no random number: %s", strerror(errno));
	link->last_id = (uint32_t)link->client;
	link->control_port = port ? port : TEMPOS_CONTROL_PORT;
	snprintf(link->broker, sizeof(link->broker), "%s:%u", address, link->control_port);
	link->control = tempos_connected(link, address, link->control_port);
	return link->control < 0 ? link->control : 0;
}

/* A request with so many fields of its own, which the caller adds. */
uint32_t tempos_begin_request(struct tempos_link *link, struct tempos_writer *to, const char *op, size_t fields)
{
	to->length = 0;
	to->full = false;
	link->last_id++;
	tempos_add_head(to, 0xde, 5 + fields, 2);
	tempos_add_text(to, "v");
	tempos_add_number(to, 1);
	tempos_add_text(to, "id");
	tempos_add_number(to, link->last_id);
	tempos_add_text(to, "op");
	tempos_add_text(to, op);
	tempos_add_text(to, "client");
	tempos_add_number(to, link->client);
	return link->last_id;
}

/* A broker never answers with more than it was asked with: make room for the answer. */
void tempos_end_request(struct tempos_writer *to, size_t least, size_t pad)
{
	static const uint8_t zeros[PADDED_LONG];
	const size_t bare = to->length + 7;

	if (bare + pad < least)
		pad = least - bare;
	tempos_add_text(to, "pad");
	tempos_add_head(to, 0xc5, pad, 2);
	tempos_add(to, zeros, pad);
}

/* Whether these bytes are a reply, and to which request. */
bool tempos_read_reply(struct tempos_link *link, struct tempos_reply *reply, size_t length, uint64_t *id)
{
	struct tempos_reader check = {reply->bytes, reply->bytes + length};
	struct tempos_reader inside;
	struct tempos_value value;
	uint64_t version;

	reply->end = check.end;
	reply->ok = NULL;
	reply->code[0] = 0;
	reply->proves = false;
	if (!tempos_pass_over(&check, 0) || check.at != check.end ||
	    !tempos_find_number(reply->bytes, reply->end, "v", 1, &version) ||
	    !tempos_find_number(reply->bytes, reply->end, "id", UINT32_MAX, id))
		return false;
	if (tempos_find(reply->bytes, reply->end, "ok", TEMPOS_MAP, &value, &inside)) {
		struct tempos_reader from = {reply->bytes, reply->end};
		struct tempos_value head;

		/* Where the map itself begins: behind its key. */
		tempos_read_value(&from, &head);
		for (size_t left = head.length; left; left--) {
			tempos_read_value(&from, &value);
			reply->ok = from.at;
			if (tempos_is_text(&value, "ok"))
				return true;
			tempos_pass_over(&from, 1);
		}
	}
	if (tempos_find(reply->bytes, reply->end, "error", TEMPOS_MAP, &value, &inside)) {
		struct tempos_value code = {0}, text = {0}, proof;
		struct tempos_reader from = {reply->bytes, reply->end};
		struct tempos_value head;

		tempos_read_value(&from, &head);
		for (size_t left = head.length; left; left--) {
			const uint8_t *map;

			tempos_read_value(&from, &value);
			map = from.at;
			if (tempos_is_text(&value, "error")) {
				tempos_find(map, reply->end, "code", TEMPOS_TEXT, &code, NULL);
				tempos_find(map, reply->end, "text", TEMPOS_TEXT, &text, NULL);
				reply->proves = tempos_find(map, reply->end, "proof", TEMPOS_BYTES, &proof, NULL) &&
						proof.length == sizeof(reply->proof);
				if (reply->proves)
					memcpy(reply->proof, proof.bytes, sizeof(reply->proof));
				break;
			}
			tempos_pass_over(&from, 1);
		}
		snprintf(reply->code, sizeof(reply->code), "%.*s", (int)code.length,
			 code.length ? (const char *)code.bytes : "");
		tempos_fail(link, TEMPOS_FAILED_REFUSED, "the broker at %s refuses: %.*s", link->broker, (int)text.length,
		     text.length ? (const char *)text.bytes : reply->code);
		return reply->code[0] != 0;
	}
	return false;
}

/* Send a request until it is answered. */
int tempos_ask(struct tempos_link *link, const struct tempos_writer *request, uint32_t id, struct tempos_reply *reply)
{
	int64_t until;
	uint64_t got;

	if (request->full)
		return tempos_fail(link, TEMPOS_FAILED_ARGUMENT, "the request is longer than %d bytes", CONTROL_MAX);
	for (size_t attempt = 0; attempt < sizeof(retry_after_ms) / sizeof(*retry_after_ms); attempt++) {
		/* What cannot be sent now is sent again like what is not answered. */
		(void)!tempos_send(link, link->control, link->control_port, request->bytes, request->length);
		until = tempos_now_ms() + retry_after_ms[attempt];
		for (int64_t left = until - tempos_now_ms(); left > 0; left = until - tempos_now_ms()) {
			struct pollfd ready = {link->control, POLLIN, 0};
			ssize_t length;

			if (poll(&ready, 1, (int)left) <= 0)
				continue;
			length = recv(link->control, reply->bytes, sizeof(reply->bytes), MSG_DONTWAIT);
			if (length < 0) {
				if (errno != ECONNREFUSED)
					continue;
				/* Nobody is there now: not asked in a tight loop. */
				poll(NULL, 0, (int)(until - tempos_now_ms() > 0 ? until - tempos_now_ms() : 0));
				break;
			}
			if (tempos_read_reply(link, reply, (size_t)length, &got) && got == id &&
			    strcmp(reply->code, "stopping"))
				return reply->ok ? 0 : TEMPOS_FAILED_REFUSED;
		}
	}
	return tempos_fail(link, TEMPOS_FAILED_NO_ANSWER, "no answer from the broker at %s: is it running there?",
		    link->broker);
}

int tempos_bad_reply(struct tempos_link *link, const char *what)
{
	return tempos_fail(link, TEMPOS_FAILED_REPLY, "the answer of the broker at %s lacks a usable %s", link->broker, what);
}

/* The map `topic` of an answer: its id, and whether it is raw. */
int tempos_read_topic(struct tempos_link *link, const struct tempos_reply *reply, uint16_t *id, bool *raw)
{
	struct tempos_reader from = {reply->ok, reply->end};
	struct tempos_value head, value;

	if (tempos_read_value(&from, &head) && head.kind == TEMPOS_MAP)
		for (size_t left = head.length; left; left--) {
			const uint8_t *map;
			uint64_t number;

			if (!tempos_read_value(&from, &value))
				break;
			map = from.at;
			if (tempos_is_text(&value, "topic")) {
				if (!tempos_find_number(map, reply->end, "id", TEMPOS_TOPIC_MAX, &number) ||
				    !tempos_is_topic((uint32_t)number) ||
				    !tempos_find(map, reply->end, "framing", TEMPOS_TEXT, &value, NULL))
					break;
				*id = (uint16_t)number;
				*raw = tempos_is_text(&value, "raw");
				return 0;
			}
			tempos_pass_over(&from, 1);
		}
	return tempos_bad_reply(link, "topic");
}

void tempos_close_link(struct tempos_link *link)
{
	if (link->control >= 0)
		close(link->control);
	link->control = -1;
}
