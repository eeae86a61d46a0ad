/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a function writes on its standard error: kept within a bound, written to the worker's own when the
 * call is over, each line with the event's id; its last line is the text of an error.
 */
#ifndef TEMPOS_WORKER_LOG_H
#define TEMPOS_WORKER_LOG_H

#include "worker_loop.h"

#include <limits.h>
#include <poll.h>

#define LOG_ROOM (64 * 1024)
/* By sysexits.h the input was wrong: the function will not have this event. */
#define EXIT_REFUSED 65

struct worker_log {
	uint32_t publisher, sequence; /* of the event */
	uint32_t length;
	uint64_t lost;
	char data[LOG_ROOM];
};

static void log_add(struct worker_log *log, const void *data, size_t length)
{
	size_t room = sizeof(log->data) - log->length, taken = length < room ? length : room;

	memcpy(log->data + log->length, data, taken);
	log->length += taken;
	log->lost += length - taken;
}

/* The last line that is not empty, at most `room`; its length. */
static uint32_t log_last_line(const struct worker_log *log, const char **line, uint32_t room)
{
	uint32_t end = log->length, begin;

	while (end && (log->data[end - 1] == '\n' || log->data[end - 1] == '\r' || log->data[end - 1] == ' '))
		end--;
	for (begin = end; begin && log->data[begin - 1] != '\n'; begin--)
		;
	*line = log->data + begin;
	return end - begin < room ? end - begin : room;
}

/* At most PIPE_BUF bytes, and only where they go in at once: whoever reads the log must not hold up functions. */
static int write_now(const char *data, size_t length)
{
	struct pollfd room = { .fd = STDERR_FILENO, .events = POLLOUT };

	return poll(&room, 1, 0) == 1 && write(STDERR_FILENO, data, length) == (ssize_t)length;
}

/* Once the call is answered. */
static void log_flush(struct worker_log *log)
{
	char line[PIPE_BUF];
	uint32_t at = 0;

	while (at < log->length) {
		char *end = memchr(log->data + at, '\n', log->length - at);
		uint32_t length = end ? (uint32_t)(end - (log->data + at)) : log->length - at;
		int head = snprintf(line, sizeof(line), "[%08x:%08x] ", log->publisher, log->sequence);
		uint32_t shown = length < sizeof(line) - head - 1 ? length : sizeof(line) - head - 1;

		memcpy(line + head, log->data + at, shown);
		line[head + shown] = '\n';
		if (!write_now(line, head + shown + 1)) {
			log->lost += log->length - at;
			break;
		}
		at += length + 1;
	}
	log->length = 0;
	if (log->lost) {
		int length = snprintf(line, sizeof(line), "[%08x:%08x] %llu more bytes are left out\n", log->publisher,
				      log->sequence, (unsigned long long)log->lost);

		/* Or later, with those that come then. */
		if (write_now(line, length))
			log->lost = 0;
	}
}

static void log_begin(struct worker_log *log, const struct tempos_call *call)
{
	log->publisher = call->publisher;
	log->sequence = call->sequence;
}

/* A program ended with a status other than 0. */
static void say_exit(struct invocation *now, int status, const struct worker_log *log)
{
	const char *line;
	int length = log_last_line(log, &line, TEMPOS_TEXT / 2);

	if (status == EXIT_REFUSED)
		say(now, TEMPOS_SAID_NO, "%.*s", length ? length : 23, length ? line : "the function refused it");
	else
		say(now, TEMPOS_ERROR, "exit code %d%s%.*s", status, length ? ": " : "", length, line);
}

#endif
