/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker's loop: receive calls, have each carried out, answer it before the next one begins, so that
 * whoever started the worker knows which call it died of.
 *
 * How a call is carried out is an `engine`. It writes the output where the answer leaves from, at most `room`
 * bytes, or says what went wrong.
 */
#ifndef TEMPOS_WORKER_LOOP_H
#define TEMPOS_WORKER_LOOP_H

#include "worker.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull
/* More would be a mistake of the invoker's; places are numbered from 0. */
#define TEMPOS_PLACES 65536u
#define TEMPOS_TEXT 1024

struct place {
	char *topic, *workflow, *step; /* one allocation, at `topic` */
};

/* One call, and what becomes of it. */
struct invocation {
	struct tempos_call head;
	const uint8_t *body;
	const struct place *place;
	uint64_t started_ns, deadline_ns; /* CLOCK_MONOTONIC */
	uint64_t ready_ns;                /* when the function's own code could begin */
	uint8_t *output;
	uint32_t room;
	uint32_t length;
	uint16_t condition, flags;
};

struct engine {
	void (*call)(struct engine *engine, struct invocation *now);
	/* Before each call and before the worker waits, where something is to be done: whether there is more of it. */
	int (*idle)(struct engine *engine);
	void (*close)(struct engine *engine);
};

struct tempos_worker {
	struct engine *engine;
	uint64_t timeout_ns;
	uint32_t room;
	uint32_t places;
	struct place *place;
	/* The message at hand. */
	uint32_t at, end;
	struct tempos_call told; /* a place that Python has to read */
	uint8_t in[TEMPOS_MESSAGE], out[TEMPOS_MESSAGE];
};

static const struct place no_place = { .topic = "", .workflow = "", .step = "" };

static uint64_t monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

static struct timespec to_timespec(uint64_t ns)
{
	return (struct timespec){ .tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S };
}

/* What went wrong, in place of an output. */
__attribute__((format(printf, 3, 4))) static void say(struct invocation *now, enum tempos_condition condition,
						      const char *format, ...)
{
	va_list values;
	int length;

	va_start(values, format);
	/* An answer always has room for a text: `room` bounds the function's output alone. */
	length = vsnprintf((char *)now->output, TEMPOS_TEXT, format, values);
	va_end(values);
	now->condition = condition;
	now->flags &= ~TEMPOS_ANSWER_NOTHING;
	now->length = length < 0 ? 0 : length < TEMPOS_TEXT ? length : TEMPOS_TEXT - 1;
}

static void say_too_large(struct invocation *now, uint64_t length)
{
	say(now, TEMPOS_TOO_LARGE, "the output has %llu bytes, %u are allowed", (unsigned long long)length,
	    now->room);
}

static void carry_out(struct tempos_worker *worker, struct invocation *now)
{
	unsigned int held = budget_held;

	now->place = now->head.place < worker->places && worker->place[now->head.place].topic ?
			     &worker->place[now->head.place] : &no_place;
	now->output = worker->out + sizeof(struct tempos_answer);
	now->room = worker->room;
	now->started_ns = monotonic_ns();
	/* Who waits in a worker behind others has its whole time from when its turn comes. */
	now->deadline_ns = now->started_ns + worker->timeout_ns;
	if (now->head.deadline_ns && now->head.deadline_ns < now->deadline_ns)
		now->deadline_ns = now->head.deadline_ns;
	now->ready_ns = now->started_ns;
	worker->engine->call(worker->engine, now);
	if (budget_held != held)
		now->flags |= TEMPOS_ANSWER_HELD;
}

static int answer(struct tempos_worker *worker, int fd, const struct invocation *now)
{
	struct tempos_answer head = {
		.length = now->length,
		.condition = now->condition,
		.flags = now->flags,
		.ticket = now->head.ticket,
		.started_ns = now->started_ns,
		.ended_ns = monotonic_ns(),
	};

	memcpy(worker->out, &head, sizeof(head));
	while (send(fd, worker->out, sizeof(head) + now->length, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* The next message: its length, 0 at the end, or -errno. */
static ssize_t receive(struct tempos_worker *worker, int fd)
{
	ssize_t length;

	for (;;) {
		int busy = worker->engine->idle && worker->engine->idle(worker->engine);

		length = recv(fd, worker->in, sizeof(worker->in), MSG_TRUNC | (busy ? MSG_DONTWAIT : 0));
		if (length >= 0)
			break;
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
	}
	return length > (ssize_t)sizeof(worker->in) ? -EMSGSIZE : length;
}

/* 0: the other end closed; 1: a place for Python to read (`worker->told`, its body before `at`); -errno. */
static int serve(struct tempos_worker *worker, int fd)
{
	for (;;) {
		struct invocation now = { 0 };

		if (worker->at == worker->end) {
			ssize_t length = receive(worker, fd);

			if (length <= 0)
				return length;
			worker->at = 0;
			worker->end = length;
		}
		if (worker->end - worker->at < sizeof(now.head))
			return -EBADMSG;
		memcpy(&now.head, worker->in + worker->at, sizeof(now.head));
		worker->at += sizeof(now.head);
		if (now.head.length > worker->end - worker->at)
			return -EBADMSG;
		now.body = worker->in + worker->at;
		worker->at += now.head.length;
		if (now.head.flags & TEMPOS_CALL_PLACE) {
			worker->told = now.head;
			return 1;
		}
		if (worker->engine->idle)
			worker->engine->idle(worker->engine);
		carry_out(worker, &now);
		int error = answer(worker, fd, &now);

		if (error)
			return error;
	}
}

#endif
