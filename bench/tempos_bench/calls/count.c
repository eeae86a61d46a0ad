/*
 * The function of count.py as a program: the event on standard input, the result on standard output; with
 * TEMPOS_LIBRARY defined as a library for an invoker.
 *
 * `count FILE` also appends a line to FILE when the function has run: the mark of the event, and when that
 * was (CLOCK_REALTIME, ns). The library does so where TEMPOS_BENCH_LINES names a file, which it keeps open. Events
 * have no escapes in their texts.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MARK_LEN 40

/* The text of a key, and how long it is. */
static const char *text_of(const char *event, const char *key, size_t *length)
{
	const char *begin = strstr(event, key), *end;

	if (!begin)
		return NULL;
	begin += strlen(key);
	end = strchr(begin, '"');
	*length = end ? (size_t)(end - begin) : 0;
	return end ? begin : NULL;
}

static double count(const char *message, size_t length, const char *pattern, size_t pattern_length)
{
	double result = 0;
	int number = 0;

	for (size_t at = 0; at + pattern_length <= length;) {
		if (memcmp(message + at, pattern, pattern_length)) {
			at++;
			continue;
		}
		result += number % 2 ? sqrt(number) : pow(number, 2);
		number++;
		at += pattern_length;
	}
	return result;
}

/* Calls the function with a text; 0, or -1 where that is none of its events. */
static int call(const char *event, const char **message, size_t *length, double *result)
{
	size_t pattern_length;
	const char *pattern = text_of(event, "\"pattern\": \"", &pattern_length);

	*message = text_of(event, "\"message\": \"", length);
	if (!*message || !pattern || !pattern_length)
		return -1;
	*result = count(*message, *length, pattern, pattern_length);
	return 0;
}

/* Appends the line of an event that has run; 0, or -1 and errno. */
static int record(int file, const char *message, size_t length)
{
	char line[MARK_LEN + 32];
	struct timespec now;
	int wanted;

	if (length < MARK_LEN)
		return 0;
	clock_gettime(CLOCK_REALTIME, &now);
	wanted = snprintf(line, sizeof(line), "%.*s%020lld\n", MARK_LEN, message,
			  (long long)now.tv_sec * 1000000000LL + now.tv_nsec);
	return write(file, line, (size_t)wanted) == wanted ? 0 : -1;
}

#ifdef TEMPOS_LIBRARY
#include "tempos_function.h"

TEMPOS_FUNCTION(event, result)
{
	static int file = -1;
	const char *message, *lines = getenv("TEMPOS_BENCH_LINES");
	char text[65536];
	size_t length;
	double found;

	if (event->length >= sizeof(text))
		return TEMPOS_REFUSE(result, "too long for this function");
	memcpy(text, event->body, event->length);
	text[event->length] = 0;
	if (call(text, &message, &length, &found))
		return TEMPOS_REFUSE(result, "a message and a pattern are needed");
	if (lines && file < 0)
		file = open(lines, O_WRONLY | O_APPEND | O_CLOEXEC);
	if (lines && (file < 0 || record(file, message, length)))
		return TEMPOS_FAIL(result, 1, strerror(errno));
	result->length = sizeof(found);
	if (result->length <= result->room)
		memcpy(result->output, &found, sizeof(found));
	return TEMPOS_OK;
}
#else
int main(int argc, char **argv)
{
	char event[65536];
	size_t got = 0, length;
	const char *message;
	double result;
	ssize_t more;

	while (got < sizeof(event) - 1 && (more = read(0, event + got, sizeof(event) - 1 - got)) > 0)
		got += (size_t)more;
	event[got] = 0;
	if (call(event, &message, &length, &result)) {
		fputs("a message and a pattern are needed\n", stderr);
		return 65;
	}
	if (argc > 1) {
		int file = open(argv[1], O_WRONLY | O_APPEND | O_CLOEXEC);

		if (file < 0 || record(file, message, length)) {
			perror(argv[1]);
			return 1;
		}
	}
	return write(1, &result, sizeof(result)) == sizeof(result) ? 0 : 1;
}
#endif
