/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the client share; nothing here is for who uses it. */
#ifndef TEMPOS_INSIDE_H
#define TEMPOS_INSIDE_H

#include <linux/types.h>

#include "abi.h"
#include "tempos.h"

#define EPOCHS (sizeof(((struct tempos_gaps *)0)->epochs) / sizeof(struct tempos_epoch))

/* wire.c */

void tempos_put(uint8_t *at, uint64_t value, size_t bytes);
bool tempos_is_topic(uint32_t topic);
/* Make the report of a probe out of it, in place: its length, or 0 where it cannot be answered. */
size_t tempos_report(uint8_t *datagram, const struct tempos_event *probe, uint64_t received_ns, uint32_t ip,
		     uint16_t port, const char *group);
/* What stands before the body of a raw datagram; its length. */
size_t tempos_put_id(uint8_t *at, uint16_t topic);

/* pack.c */

/* The longest control datagram, and the least bytes of a request whose answer is long, or short. */
#define CONTROL_MAX 1200
#define PADDED_LONG 512
#define PADDED 256
/* Bytes of padding that a request has at least whose answer repeats what it names. */
#define PAD 128
struct tempos_writer {
	uint8_t bytes[CONTROL_MAX];
	size_t length;
	bool full;
};

void tempos_add(struct tempos_writer *to, const void *bytes, size_t length);
/* A code and so many bytes of a number behind it. */
void tempos_add_head(struct tempos_writer *to, uint8_t code, uint64_t value, size_t bytes);
void tempos_add_number(struct tempos_writer *to, uint64_t value);
void tempos_add_text(struct tempos_writer *to, const char *text);
void tempos_add_list(struct tempos_writer *to, size_t items);
void tempos_add_true(struct tempos_writer *to);

enum tempos_kind { TEMPOS_NOTHING, TEMPOS_NUMBER, TEMPOS_TEXT, TEMPOS_BYTES, TEMPOS_LIST, TEMPOS_MAP, TEMPOS_OTHER };

/* One value: a number, so many bytes, or the items that follow (twice as many in a map). */
struct tempos_value {
	enum tempos_kind kind;
	bool negative;
	uint64_t number;
	const uint8_t *bytes;
	size_t length;
};

struct tempos_reader {
	const uint8_t *at, *end;
};

bool tempos_read_value(struct tempos_reader *from, struct tempos_value *out);
/* A whole value, whatever is in it. */
bool tempos_pass_over(struct tempos_reader *from, int depth);
bool tempos_is_text(const struct tempos_value *value, const char *text);
/* The value under a key of the map that begins here, if it is of that kind; `inside` stands behind its head. */
bool tempos_find(const uint8_t *map, const uint8_t *end, const char *key, enum tempos_kind kind,
		 struct tempos_value *out, struct tempos_reader *inside);
bool tempos_find_number(const uint8_t *map, const uint8_t *end, const char *key, uint64_t most, uint64_t *out);

/* link.c */

struct tempos_reply {
	uint8_t bytes[CONTROL_MAX];
	const uint8_t *ok, *end; /* the map of a positive answer */
	char code[32];		 /* of a refusal, else "" */
	uint8_t proof[16];	 /* that comes with a refusal, where `proves` */
	bool proves;
};

int64_t tempos_now_ms(void);
uint64_t tempos_wall_ns(void);
__attribute__((format(printf, 3, 4))) int tempos_fail(struct tempos_link *link, int code, const char *format, ...);
/* A socket, or a failure. */
int tempos_connected(struct tempos_link *link, const char *address, uint16_t port);
/* Send over a connected socket to this port of the broker, by another way where our address is gone; 0, or errno says. */
int tempos_send(const struct tempos_link *link, int fd, uint16_t port, const void *bytes, size_t length);
/* This machine's address towards the broker, network byte order. */
uint32_t tempos_ours(const struct tempos_link *link);
int tempos_open_link(struct tempos_link *link, const char *address, uint16_t port);
void tempos_close_link(struct tempos_link *link);
/* A request with so many fields of its own, which the caller adds; its id. */
uint32_t tempos_begin_request(struct tempos_link *link, struct tempos_writer *to, const char *op, size_t fields);
/* A broker never answers with more than it was asked with: make room for the answer. */
void tempos_end_request(struct tempos_writer *to, size_t least, size_t pad);
/* Whether these bytes are a reply, and to which request. */
bool tempos_read_reply(struct tempos_link *link, struct tempos_reply *reply, size_t length, uint64_t *id);
/* Send a request until it is answered. */
int tempos_ask(struct tempos_link *link, const struct tempos_writer *request, uint32_t id, struct tempos_reply *reply);
int tempos_bad_reply(struct tempos_link *link, const char *what);
/* The map `topic` of an answer: its id, and whether it is raw. */
int tempos_read_topic(struct tempos_link *link, const struct tempos_reply *reply, uint16_t *id, bool *raw);

#endif
