/* SPDX-License-Identifier: Apache-2.0 */
/* A subscriber, see tempos.h. */
#define _GNU_SOURCE

#include "tempos.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "inside.h"

/*
 * A broker sends events only to who has shown that it receives them: first that its address is its own, by what comes
 * with a refusal, then that its port is, by what comes there in a datagram of topic 0: 1, the client's number (8 bytes),
 * the proof.
 */
#define PROOF_AT 10
#define PROOF_LEN 16
#define PROOF_WAIT_MS 1000
/* Proofs that a broker may want before it is asked too much of. */
#define PROOFS 4

/* Whether what came to the data socket is a proof that is awaited. From there events come then, and from nowhere else. */
static bool is_proof(struct tempos_subscriber *self, ssize_t length, const struct sockaddr_in *from)
{
	uint8_t head[PROOF_AT] = {0, 1};

	tempos_put(head + 2, self->link.client, 8);
	if (!self->proof_until || length != PROOF_AT + PROOF_LEN || memcmp(self->in, head, sizeof(head)))
		return false;
	self->from_ip = from->sin_addr.s_addr;
	self->from_port = from->sin_port;
	return true;
}

/* Where we were a member: that ends, and its counts are told from here. */
static void add_former(const struct tempos_subscriber *self, struct tempos_writer *request)
{
	const struct in_addr former = {self->former};
	char text[INET_ADDRSTRLEN];

	if (!self->former)
		return;
	tempos_add_text(request, "former");
	tempos_add_list(request, 1);
	tempos_add_list(request, 2);
	tempos_add_text(request, inet_ntop(AF_INET, &former, text, sizeof(text)) ? text : "");
	tempos_add_number(request, self->port);
}

static int subscribe(struct tempos_subscriber *self, const uint8_t *proof, struct tempos_reply *reply)
{
	const size_t fields = 3 + !self->own_group + (self->former != 0);
	struct tempos_writer request;
	const uint32_t id = tempos_begin_request(&self->link, &request, "subscribe", fields);

	tempos_add_text(&request, "topic");
	tempos_add_text(&request, self->name);
	tempos_add_text(&request, "port");
	tempos_add_number(&request, self->port);
	if (!self->own_group) {
		tempos_add_text(&request, "group");
		tempos_add_text(&request, self->group);
	}
	/* An empty one asks for a proof: what brings it tells where events will come from. */
	tempos_add_text(&request, "proof");
	tempos_add_head(&request, 0xc4, proof ? PROOF_LEN : 0, 1);
	if (proof)
		tempos_add(&request, proof, PROOF_LEN);
	add_former(self, &request);
	tempos_end_request(&request, PADDED_LONG, PAD);
	return tempos_ask(&self->link, &request, id, reply);
}

/* A member, by what the broker has answered. */
static int joined(struct tempos_subscriber *self, const struct tempos_reply *reply)
{
	const bool again = self->link.instance != 0;
	struct tempos_value group;
	uint64_t heartbeat, instance, epoch;
	const int code = tempos_read_topic(&self->link, reply, &self->topic, &self->raw);

	if (code)
		return code;
	if (!tempos_find_number(reply->ok, reply->end, "heartbeat_ms", 86400000, &heartbeat) || !heartbeat)
		return tempos_bad_reply(&self->link, "heartbeat");
	if (!tempos_find_number(reply->ok, reply->end, "instance", UINT32_MAX, &instance) ||
	    !tempos_find_number(reply->ok, reply->end, "epoch", UINT32_MAX, &epoch))
		return tempos_bad_reply(&self->link, "epoch");
	if (!tempos_find(reply->ok, reply->end, "group", TEMPOS_TEXT, &group, NULL) ||
	    group.length >= sizeof(self->group))
		return tempos_bad_reply(&self->link, "group");
	memcpy(self->group, group.bytes, group.length);
	self->group[group.length] = 0;
	if (again && instance != self->link.instance)
		tempos_gaps_new_broker(&self->gaps);
	self->link.instance = (uint32_t)instance;
	self->heartbeat_ms = (int64_t)heartbeat;
	self->heard = self->next_heartbeat = tempos_now_ms();
	self->ours = tempos_ours(&self->link);
	if (self->former)
		/* The broker books what came there before that account is settled. */
		for (struct tempos_epoch *each = self->gaps.epochs; each < self->gaps.epochs + EPOCHS; each++)
			each->acknowledged = -1;
	else
		self->next_heartbeat += self->heartbeat_ms;
	tempos_gaps_in_force(&self->gaps, (uint32_t)epoch);
	return 0;
}

/* Ask to be a member, with a proof if there is one. Where the broker wants another this awaits it: `proof_until`. */
static int ask_to_join(struct tempos_subscriber *self, const uint8_t *proof)
{
	struct tempos_reply reply;
	uint8_t told[PROOF_LEN];

	self->proof_until = 0;
	for (;;) {
		const int code = subscribe(self, proof, &reply);

		if (!code)
			return joined(self, &reply);
		if (code != TEMPOS_FAILED_REFUSED || strcmp(reply.code, "prove") || self->proofs++ >= PROOFS)
			return code;
		if (!reply.proves) {
			self->proof_until = tempos_now_ms() + PROOF_WAIT_MS;
			return 0;
		}
		memcpy(told, reply.proof, PROOF_LEN);
		proof = told;
	}
}

static int begin_to_join(struct tempos_subscriber *self)
{
	if (self->link.instance && tempos_ours(&self->link) != self->ours)
		self->former = self->ours;
	self->proofs = 0;
	return ask_to_join(self, NULL);
}

/* Become a member: nothing but proofs is awaited meanwhile. */
static int join(struct tempos_subscriber *self)
{
	int code = begin_to_join(self);

	while (!code && self->proof_until) {
		struct pollfd ready = {self->data, POLLIN, 0};
		struct sockaddr_in from = {0};
		socklen_t size = sizeof(from);
		const int64_t left = self->proof_until - tempos_now_ms();
		ssize_t length;

		if (left <= 0)
			return tempos_fail(&self->link, TEMPOS_FAILED_NO_ANSWER,
					   "nothing arrives at UDP port %u from the broker at %s", self->port,
					   self->link.broker);
		if (poll(&ready, 1, (int)left) <= 0)
			continue;
		length = recvfrom(self->data, self->in, sizeof(self->in), MSG_DONTWAIT, (struct sockaddr *)&from, &size);
		if (is_proof(self, length, &from))
			code = ask_to_join(self, self->in + PROOF_AT);
		else
			self->unknown++;
	}
	return code;
}

/* A broker that does not answer now is told by the next heartbeats that we are no member. */
static int unless_silent(int code)
{
	return code == TEMPOS_FAILED_NO_ANSWER ? 0 : code;
}

/* Become a member again, or try to. The proof comes among events that still come, and none of them is missed for it. */
static int join_again(struct tempos_subscriber *self)
{
	if (self->proof_until > tempos_now_ms())
		return 0;
	self->rejoined++;
	return unless_silent(begin_to_join(self));
}

/* What a heartbeat tells: epochs of which the broker has not acknowledged what arrived. */
static uint32_t tell(struct tempos_subscriber *self, struct tempos_writer *request, const char *op)
{
	uint32_t id;

	self->tells = 0;
	for (struct tempos_epoch *each = self->gaps.epochs; each < self->gaps.epochs + EPOCHS; each++)
		if (each->used && (int64_t)tempos_gaps_told(each) != each->acknowledged &&
		    self->tells < TEMPOS_TOLD_AT_ONCE) {
			self->telling[self->tells].epoch = each->number;
			self->telling[self->tells++].received = tempos_gaps_told(each);
		}
	id = tempos_begin_request(&self->link, request, op, 5 + (self->former != 0));
	tempos_add_text(request, "port");
	tempos_add_number(request, self->port);
	tempos_add_text(request, "full");
	tempos_add_true(request);
	tempos_add_text(request, "instance");
	tempos_add_number(request, self->link.instance);
	tempos_add_text(request, "topics");
	tempos_add_list(request, 1);
	tempos_add_list(request, 2);
	tempos_add_number(request, self->topic);
	/* What publishers have told is of no use here. */
	tempos_add_number(request, UINT64_MAX);
	tempos_add_text(request, "received");
	if (self->raw) {
		tempos_add_list(request, 1);
		tempos_add_list(request, 4);
		tempos_add_number(request, self->topic);
		tempos_add_text(request, self->group);
		tempos_add_number(request, 0);
		tempos_add_number(request, self->datagrams);
	} else {
		tempos_add_list(request, self->tells);
		for (size_t i = 0; i < self->tells; i++) {
			tempos_add_list(request, 4);
			tempos_add_number(request, self->topic);
			tempos_add_text(request, self->group);
			tempos_add_number(request, self->telling[i].epoch);
			tempos_add_number(request, self->telling[i].received);
		}
	}
	add_former(self, request);
	tempos_end_request(request, PADDED, 0);
	return id;
}

static void acknowledged(struct tempos_subscriber *self)
{
	for (size_t i = 0; i < self->tells; i++)
		tempos_gaps_acknowledge(&self->gaps, self->telling[i].epoch, self->telling[i].received);
}

static void heartbeat(struct tempos_subscriber *self)
{
	struct tempos_writer request;

	self->next_heartbeat = tempos_now_ms() + self->heartbeat_ms;
	self->heartbeat_id = tell(self, &request, "heartbeat");
	(void)!tempos_send(&self->link, self->link.control, self->link.control_port, request.bytes, request.length);
}

/* An answer to a heartbeat: the epoch in force, or that this is no member any more. */
static int heard(struct tempos_subscriber *self)
{
	struct tempos_reply reply;
	struct tempos_reader inside;
	struct tempos_value epochs, row, number;
	uint64_t id;
	ssize_t length = recv(self->link.control, reply.bytes, sizeof(reply.bytes), MSG_DONTWAIT);
	bool mine = false;

	if (length < 0 || !tempos_read_reply(&self->link, &reply, (size_t)length, &id) || id != self->heartbeat_id)
		return 0;
	self->heartbeat_id = 0;
	if (!reply.ok) {
		if (strcmp(reply.code, "unknown member"))
			return strcmp(reply.code, "stopping") ? TEMPOS_FAILED_REFUSED : 0;
		return join_again(self);
	}
	self->heard = tempos_now_ms();
	self->former = 0;
	acknowledged(self);
	if (!tempos_find(reply.ok, reply.end, "epochs", TEMPOS_LIST, &epochs, &inside))
		return 0;
	for (size_t left = epochs.length; left; left--) {
		uint64_t values[2] = {0};
		size_t items;

		if (!tempos_read_value(&inside, &row) || row.kind != TEMPOS_LIST || row.length < 2)
			return 0;
		for (items = 0; items < row.length; items++) {
			if (!tempos_read_value(&inside, &number) || number.kind != TEMPOS_NUMBER || number.negative)
				return 0;
			if (items < 2)
				values[items] = number.number;
		}
		if (values[0] == self->topic && values[1] <= UINT32_MAX) {
			mine = true;
			tempos_gaps_in_force(&self->gaps, (uint32_t)values[1]);
		}
	}
	return mine ? 0 : join_again(self);
}

int tempos_subscriber_open(struct tempos_subscriber *self, const char *address, uint16_t control_port,
			   const char *topic, const char *group)
{
	struct sockaddr_in at = {.sin_family = AF_INET};
	socklen_t size = sizeof(at);
	int code;

	memset(self, 0, offsetof(struct tempos_subscriber, in));
	self->data = -1;
	tempos_gaps_begin(&self->gaps);
	code = tempos_open_link(&self->link, address, control_port);
	if (code)
		return code;
	if (strlen(topic) >= sizeof(self->name) || (group && strlen(group) >= sizeof(self->group))) {
		tempos_close_link(&self->link);
		return tempos_fail(&self->link, TEMPOS_FAILED_ARGUMENT, "a name is longer than %zu bytes",
			    sizeof(self->name) - 1);
	}
	strcpy(self->name, topic);
	self->own_group = !group;
	if (group)
		strcpy(self->group, group);
	self->data = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (self->data < 0 || bind(self->data, (struct sockaddr *)&at, sizeof(at)) ||
	    getsockname(self->data, (struct sockaddr *)&at, &size)) {
		code = tempos_fail(&self->link, TEMPOS_FAILED_SYSTEM, "no socket for events: %s", strerror(errno));
	} else {
		self->port = ntohs(at.sin_port);
		code = join(self);
	}
	if (code) {
		if (self->data >= 0)
			close(self->data);
		self->data = -1;
		tempos_close_link(&self->link);
	}
	return code;
}

static uint64_t wall_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Tell who sent a probe, by way of the broker, that it has come; nobody waits for it here. */
static void report(struct tempos_subscriber *self, uint64_t received_ns, const struct sockaddr_in *from)
{
	struct sockaddr_in to = *from;
	const uint8_t *port = self->event.envelope + offsetof(struct tempos_envelope, data_port);
	size_t length;

	memcpy(&to.sin_port, port, sizeof(to.sin_port));
	length = tempos_report(self->in, &self->event, received_ns, self->ours, self->port, self->group);
	if (!length)
		return;
	tempos_put(self->in + offsetof(struct tempos_event_header, sent_ns), wall_clock(), 8);
	(void)!sendto(self->data, self->in, length, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof(to));
}

/* One datagram from the data socket: 1 if it is an event, else 0; or, where it lets us join again, a failure. */
static int receive(struct tempos_subscriber *self)
{
	struct sockaddr_in from = {0};
	socklen_t size = sizeof(from);
	const ssize_t length =
		recvfrom(self->data, self->in, sizeof(self->in), MSG_DONTWAIT, (struct sockaddr *)&from, &size);
	const uint64_t received_ns = wall_clock();
	int found;

	if (length < 0)
		return 0;
	if (is_proof(self, length, &from))
		return unless_silent(ask_to_join(self, self->in + PROOF_AT));
	if (self->from_port && (from.sin_addr.s_addr != self->from_ip || from.sin_port != self->from_port)) {
		self->foreign++;
		return 0;
	}
	if (self->raw) {
		uint8_t head[TEMPOS_WIDE_ID_LEN];
		const size_t begin = tempos_put_id(head, self->topic);

		if ((size_t)length < begin || memcmp(head, self->in, begin)) {
			self->unknown++;
			return 0;
		}
		self->datagrams++;
		self->event = (struct tempos_event){
			.topic = self->topic, .body = self->in + begin, .length = (size_t)length - begin};
		self->at = 0;
		return 1;
	}
	found = tempos_decode(self->in, (size_t)length, &self->event);
	if (found != TEMPOS_FORWARDED || self->event.topic != self->topic) {
		self->unknown++;
		return 0;
	}
	self->at = 0;
	/* A datagram that has come before is counted and given to nobody. */
	if (tempos_gaps_see(&self->gaps, self->event.epoch, self->event.delivery_sequence) == TEMPOS_AGAIN)
		return 0;
	/* A probe has come like any event, and is of no use to the program. */
	if (self->event.flags & TEMPOS_FLAG_TRACE && self->event.envelope && found == TEMPOS_FORWARDED) {
		report(self, received_ns, &from);
		return 0;
	}
	return 1;
}

int tempos_next(struct tempos_subscriber *self, int timeout_ms, const uint8_t **body, size_t *length)
{
	const int64_t until = timeout_ms < 0 ? INT64_MAX : tempos_now_ms() + timeout_ms;

	for (;;) {
		int64_t now, wait;
		struct pollfd ready[2] = {{self->data, POLLIN, 0}, {self->link.control, POLLIN, 0}};
		int code;

		if (self->event.body) {
			code = tempos_next_body(&self->event, &self->at, body, length);
			if (code > 0)
				return 1;
			self->unknown += code < 0;
			self->event.body = NULL;
		}
		now = tempos_now_ms();
		if (now >= self->next_heartbeat)
			heartbeat(self);
		wait = self->next_heartbeat < until ? self->next_heartbeat - now : until - now;
		if (poll(ready, 2, wait < 0 ? 0 : (int)wait) < 0 && errno != EINTR)
			return tempos_fail(&self->link, TEMPOS_FAILED_SYSTEM, "cannot wait for events: %s", strerror(errno));
		if (ready[1].revents) {
			code = heard(self);
			if (code)
				return code;
		}
		if (ready[0].revents) {
			code = receive(self);
			if (code < 0)
				return code;
			if (!code)
				self->event.body = NULL;
		} else if (tempos_now_ms() >= until) {
			return 0;
		}
	}
}

int tempos_subscriber_close(struct tempos_subscriber *self)
{
	struct tempos_writer request;
	struct tempos_reply reply;
	int code = 0;

	/* Only one datagram can say goodbye; what does not fit beside it goes ahead. */
	for (bool last = self->data < 0; !last && !code;) {
		uint32_t id = tell(self, &request, "heartbeat");

		last = self->tells < TEMPOS_TOLD_AT_ONCE;
		if (last)
			id = tell(self, &request, "goodbye");
		code = tempos_ask(&self->link, &request, id, &reply);
		if (!code)
			acknowledged(self);
	}
	if (self->data >= 0)
		close(self->data);
	self->data = -1;
	tempos_close_link(&self->link);
	return code;
}
