/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small client for tempos in C99: publish, subscribe, and know what was lost on the way from the broker.
 *
 * The files of this folder and fastpath/bpf/abi.h, nothing else but POSIX sockets. The bytes are those of WIRE.md. What it leaves to larger clients: signed control (a broker with keys refuses it), requests and
 * replies, sending probes (it answers them), filters, and telling the broker how much a publisher has sent.
 *
 * Rules: no threads, no globals, nothing is allocated after tempos_subscriber_open(). A call that fails gives a
 * negative number, and tempos_error() has a sentence that says what, where and what to do. A subscriber must be
 * asked for events (tempos_next) at least as often as the broker wants heartbeats, 2.5 s by default: there is no
 * other time at which it could send them.
 */
#ifndef TEMPOS_CLIENT_H
#define TEMPOS_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Room for the longest datagram that IPv4 carries. */
#define TEMPOS_DATAGRAM_MAX 65507

/* What calls give that fail. */
enum tempos_failure {
	TEMPOS_FAILED_SYSTEM = -1,    /* the system refused: the sentence has its reason */
	TEMPOS_FAILED_NO_ANSWER = -2, /* nobody answers at the control port */
	TEMPOS_FAILED_REFUSED = -3,   /* the broker refused: the sentence has its words */
	TEMPOS_FAILED_REPLY = -4,     /* the broker's answer lacks what it must hold */
	TEMPOS_FAILED_ARGUMENT = -5,  /* what was given cannot be: the sentence says what is allowed */
};

/* Data on the wire: pure functions over bytes. */

/* A decoded `event` datagram; `body` points into it. */
struct tempos_event {
	uint16_t topic;
	uint8_t flags; /* TEMPOS_FLAG_* */
	uint8_t epoch;
	uint32_t publisher;
	uint32_t sequence;
	uint32_t delivery_sequence;
	uint64_t sent_ns; /* the publisher's wall clock, nanoseconds since 1970 */
	const uint8_t *envelope; /* TEMPOS_ENVELOPE_LEN bytes where flags have TEMPOS_FLAG_ENVELOPE, else NULL */
	const uint8_t *body;
	size_t length;
};

/* TEMPOS_FORWARDED (or TEMPOS_REPLY, which is whole, too), or the enum tempos_reason why it is none. */
int tempos_decode(const void *datagram, size_t length, struct tempos_event *out);

/*
 * The bodies of an event, one after the other: `at` begins as 0. 1 and the body, 0 behind the last, -1 where a batch
 * is cut or empty. Without the flag BATCH there is one body.
 */
int tempos_next_body(const struct tempos_event *event, size_t *at, const uint8_t **body, size_t *length);

/* The datagram of an event; its length, or 0 where `room` is too small or the topic's id cannot be one. */
size_t tempos_encode(void *out, size_t room, uint16_t topic, uint32_t publisher, uint32_t sequence, uint64_t sent_ns,
		     uint8_t flags, const void *body, size_t length);

/* What a member knows of its own losses: a hole in the delivery sequence of an epoch. */

#define TEMPOS_EPOCHS_KEPT 128 /* whose counts the broker has not acknowledged */
#define TEMPOS_EPOCHS_LATE 16  /* for so many a datagram may still be on its way */
#define TEMPOS_HOLES_KEPT 64   /* of one epoch */
#define TEMPOS_TOLD_AT_ONCE 8  /* epochs in one report: what fits a request, whatever the group is called */

/* What tempos_gaps_see() says but for a number of datagrams that are missing before this one. */
#define TEMPOS_LATE (-1)  /* it takes back one that was missing */
#define TEMPOS_AGAIN (-2) /* it has come before */

struct tempos_epoch {
	bool used;
	uint32_t number;
	uint32_t expected;
	uint64_t received, missing;
	uint64_t elsewhere;   /* of what is received, what another broker counts */
	int64_t acknowledged; /* -1: nothing */
	size_t holes;
	struct {
		uint64_t start, end;
	} hole[TEMPOS_HOLES_KEPT];
};

struct tempos_gaps {
	uint64_t duplicates, late, unstamped;
	uint64_t past_received, past_missed;
	int64_t told; /* the epoch that the broker said to be in force; -1: none */
	struct tempos_epoch *current, *doubtful;
	struct tempos_epoch epochs[TEMPOS_EPOCHS_KEPT + 2];
};

void tempos_gaps_begin(struct tempos_gaps *gaps);
int64_t tempos_gaps_see(struct tempos_gaps *gaps, uint8_t epoch, uint32_t sequence);
/* The broker says that this member is in the route of `epoch`, in full. */
void tempos_gaps_in_force(struct tempos_gaps *gaps, uint32_t epoch);
/* The broker is another instance: it may go on with the routes it found, or begin anew. */
void tempos_gaps_new_broker(struct tempos_gaps *gaps);

/* Of an epoch, what the broker in charge is to count. */
uint64_t tempos_gaps_told(const struct tempos_epoch *epoch);
/* The broker has booked so many datagrams of an epoch. */
void tempos_gaps_acknowledge(struct tempos_gaps *gaps, uint32_t epoch, uint64_t received);
uint64_t tempos_gaps_received(const struct tempos_gaps *gaps);
uint64_t tempos_gaps_missed(const struct tempos_gaps *gaps);

/* Clients. */

struct tempos_link {
	int control;
	uint32_t ip; /* of the broker, network byte order */
	uint16_t control_port;
	uint64_t client;
	uint32_t last_id;
	uint32_t instance;
	char broker[64];
	char error[256];
};

struct tempos_publisher {
	struct tempos_link link;
	int data;
	uint16_t data_port, topic;
	bool raw; /* the topic's framing */
	uint32_t publisher, sequence;
	uint8_t out[TEMPOS_DATAGRAM_MAX];
};

/* Find a topic at the broker of this IPv4 address. Ports: 0 means the usual ones. */
int tempos_publisher_open(struct tempos_publisher *self, const char *address, uint16_t control_port,
			  uint16_t data_port, const char *topic);
/* Send one event; 0. It is on its way then, no more: UDP may lose it. Where there is no way now, the next call may find one. */
int tempos_publish(struct tempos_publisher *self, const void *body, size_t length);
void tempos_publisher_close(struct tempos_publisher *self);

struct tempos_subscriber {
	struct tempos_link link;
	int data;
	uint16_t port, topic;
	bool raw;
	char name[256], group[260];
	bool own_group;
	int64_t heartbeat_ms, next_heartbeat, heard; /* milliseconds of the monotonic clock; when the broker answered last */
	uint32_t ours, former; /* our address as a member, and the one before, as long as that may be one; 0: none */
	uint32_t from_ip;   /* where the broker's events come from, network byte order; 0: not known */
	uint16_t from_port;
	uint64_t foreign;   /* datagrams from anywhere else */
	uint64_t unknown;   /* datagrams that were no event of this topic */
	uint64_t datagrams; /* of a raw topic */
	uint64_t rejoined;
	uint8_t proofs;      /* wanted since this asked to be a member again; the next may come until `proof_until` */
	int64_t proof_until; /* 0: none is awaited */
	uint32_t heartbeat_id; /* of the one that is not answered yet, else 0 */
	struct {
		uint32_t epoch;
		uint64_t received;
	} telling[TEMPOS_TOLD_AT_ONCE];
	size_t tells;
	struct tempos_gaps gaps;
	struct tempos_event event;
	size_t at;
	uint8_t in[TEMPOS_DATAGRAM_MAX];
};

/* Become a member of a group of a topic; a NULL group means one of its own, which gets every event. */
int tempos_subscriber_open(struct tempos_subscriber *self, const char *address, uint16_t control_port,
			   const char *topic, const char *group);
/*
 * The next body: 1 with `body` and `length`, good until the next call, and self->event of which it is one; 0 if
 * nothing came within `timeout_ms` (-1: wait for ever). Sends heartbeats, and becomes a member again where a
 * broker has lost its memory or our address is another one now. A broker that is silent is no failure: what its
 * fast path goes on forwarding comes, and it is asked on (`heard`).
 */
int tempos_next(struct tempos_subscriber *self, int timeout_ms, const uint8_t **body, size_t *length);
/* Leave, and tell the last counts. */
int tempos_subscriber_close(struct tempos_subscriber *self);

/* What went wrong last, in a sentence. */
const char *tempos_error(const struct tempos_link *link);

#endif
