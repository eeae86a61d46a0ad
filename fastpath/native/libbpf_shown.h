/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables of numbers that programs keep in shared arrays, written as text again and again without Python in it: after a
 * second of sleep the interpreter costs ten times what is to be shown.
 *
 * Python says once how every row begins and which numbers follow, and what must be as it was for that to be right; where
 * it is not, it is asked again. Rows are sorted by one of the numbers, largest first.
 */
#ifndef TEMPOS_LIBBPF_SHOWN_H
#define TEMPOS_LIBBPF_SHOWN_H

#include "libbpf_runs.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SHOWN_COLUMNS 4
/* Characters of a number at most, with its blank. */
#define SHOWN_NUMBER 48
#define SHOWN_CLOCK 16

struct tempos_shown_column {
	__u32 offset;
	__u32 width;
	double parts; /* 0: whole, else it is divided by this, and has three places */
};

struct tempos_shown_row {
	const char *begin;
	__u32 length;
	__u32 entry;
	__u64 base[SHOWN_COLUMNS];
};

struct tempos_shown_table {
	const char *memory;
	__u32 size;
	__u32 columns;
	__u32 order;
	__u32 rows, most;
	const char *head;
	__u32 length;
	struct tempos_shown_column column[SHOWN_COLUMNS];
	const struct tempos_shown_row *row;
};

struct tempos_shown_same {
	const char *memory;
	const char *was;
	__u32 size;
};

struct tempos_shown {
	int program_fd, stop_fd, out_fd;
	__u32 tables, conditions;
	const struct tempos_shown_table *table;
	const struct tempos_shown_same *same;
	__u64 interval_ns, end_ns; /* 0: no end */
	__u64 due_ns;
	char *rest;
	__u64 rest_at, rest_end;
};

struct shown_place {
	__u64 order;
	__u32 row;
};

static __u64 shown_value(const struct tempos_shown_table *table, const struct tempos_shown_row *row, __u32 column)
{
	const char *at = table->memory + (size_t)row->entry * table->size + table->column[column].offset;

	return __atomic_load_n((const __u64 *)at, __ATOMIC_RELAXED) - row->base[column];
}

static int shown_compare(const void *one, const void *other)
{
	const struct shown_place *a = one, *b = other;

	if (a->order != b->order)
		return a->order < b->order ? 1 : -1;
	return a->row < b->row ? -1 : a->row > b->row;
}

static char *shown_rows(const struct tempos_shown_table *table, struct shown_place *places, char *to)
{
	for (__u32 i = 0; i < table->rows; i++)
		places[i] = (struct shown_place){ shown_value(table, &table->row[i], table->order), i };
	qsort(places, table->rows, sizeof(*places), shown_compare);
	for (__u32 i = 0; i < table->rows && i < table->most; i++) {
		const struct tempos_shown_row *row = &table->row[places[i].row];

		memcpy(to, row->begin, row->length);
		to += row->length;
		for (__u32 each = 0; each < table->columns; each++) {
			const struct tempos_shown_column *column = &table->column[each];
			long long value = (long long)shown_value(table, row, each);

			to += column->parts ? snprintf(to, SHOWN_NUMBER, " %*.3f", column->width, value / column->parts) :
					      snprintf(to, SHOWN_NUMBER, " %*lld", column->width, value);
		}
		*to++ = '\n';
	}
	return to;
}

/* The text of all tables, SHOWN_CLOCK bytes into `out`, which is to be freed; its length, or -errno. */
static long tempos_shown_text(const struct tempos_shown *shown, char **out)
{
	size_t room = SHOWN_CLOCK, most = 1;
	struct shown_place *places;
	char *to;

	for (const struct tempos_shown_table *table = shown->table; table < shown->table + shown->tables; table++) {
		room += table->length + 1;
		for (__u32 i = 0; i < table->rows; i++)
			room += table->row[i].length + SHOWN_COLUMNS * SHOWN_NUMBER + 1;
		most = table->rows > most ? table->rows : most;
	}
	places = malloc(most * sizeof(*places));
	*out = to = malloc(room + 1);
	if (!places || !to) {
		free(places);
		free(to);
		return -ENOMEM;
	}
	to += SHOWN_CLOCK;
	for (const struct tempos_shown_table *table = shown->table; table < shown->table + shown->tables; table++) {
		memcpy(to, table->head, table->length);
		to = shown_rows(table, places, to + table->length);
		*to++ = '\n';
	}
	free(places);
	return to - *out - SHOWN_CLOCK;
}

/* Writes the time of day and all tables; 2: `rest` is what could not be written, for a signal came or there is no room. */
static int shown_look(struct tempos_shown *shown)
{
	time_t now = time(NULL);
	struct tm local;
	size_t at = 0, end;
	long length = tempos_shown_text(shown, &shown->rest);

	if (length < 0)
		return (int)length;
	/* Before the text there is room for it. */
	end = SHOWN_CLOCK + length;
	at = SHOWN_CLOCK - strftime(shown->rest, SHOWN_CLOCK, "%H:%M:%S\n", localtime_r(&now, &local));
	memmove(shown->rest + at, shown->rest, SHOWN_CLOCK - at);
	while (at < end) {
		ssize_t written = write(shown->out_fd, shown->rest + at, end - at);

		if (written < 0) {
			if (errno == EINTR || errno == EAGAIN) {
				shown->rest_at = at;
				shown->rest_end = end;
				return 2;
			}
			free(shown->rest);
			return -errno;
		}
		at += written;
	}
	free(shown->rest);
	return 0;
}

static __u64 shown_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/*
 * Shows them whenever it is time. 0: it is to end, or has been told so; 1: it is time, and something is not as it was:
 * `due_ns` stands; 2: `rest`, to be freed, is still to be written; -errno: of the program or of who reads.
 */
static int tempos_shown_loop(struct tempos_shown *shown)
{
	for (;;) {
		__u64 now = shown_now(), until = shown->due_ns;
		struct pollfd fds[] = {
			{ .fd = shown->stop_fd, .events = POLLIN },
			{ .fd = shown->out_fd },
		};
		struct timespec wait;

		if (shown->end_ns && now >= shown->end_ns)
			return 0;
		if (now >= shown->due_ns) {
			int error = shown->program_fd < 0 ? 0 : tempos_call(shown->program_fd);

			for (__u32 i = 0; !error && i < shown->conditions; i++)
				if (memcmp(shown->same[i].memory, shown->same[i].was, shown->same[i].size))
					return 1;
			shown->due_ns += ((now - shown->due_ns) / shown->interval_ns + 1) * shown->interval_ns;
			if (!error)
				error = shown_look(shown);
			if (error)
				return error;
			continue;
		}
		if (shown->end_ns && shown->end_ns < until)
			until = shown->end_ns;
		wait = (struct timespec){ .tv_sec = (until - now) / 1000000000, .tv_nsec = (until - now) % 1000000000 };
		if (ppoll(fds, 2, &wait, NULL) < 0)
			return errno == EINTR ? 0 : -errno;
		if (fds[0].revents)
			return 0;
		if (fds[1].revents & (POLLERR | POLLHUP))
			return -EPIPE;
	}
}

#endif
