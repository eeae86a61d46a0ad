/*
 * The function of count.py as a program: the event on standard input, the result on standard output.
 *
 * `count FILE` also appends a line to FILE when the function has run: the mark of the event, and when that
 * was (CLOCK_REALTIME, ns). Events have no escapes in their texts.
 */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
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

int main(int argc, char **argv)
{
	char event[65536], line[MARK_LEN + 32];
	size_t got = 0, length, pattern_length;
	const char *message, *pattern;
	struct timespec now;
	double result;
	ssize_t more;

	while (got < sizeof(event) - 1 && (more = read(0, event + got, sizeof(event) - 1 - got)) > 0)
		got += (size_t)more;
	event[got] = 0;
	message = text_of(event, "\"message\": \"", &length);
	pattern = text_of(event, "\"pattern\": \"", &pattern_length);
	if (!message || !pattern || !pattern_length) {
		fputs("a message and a pattern are needed\n", stderr);
		return 65;
	}
	result = count(message, length, pattern, pattern_length);
	clock_gettime(CLOCK_REALTIME, &now);
	if (argc > 1 && length >= MARK_LEN) {
		int file = open(argv[1], O_WRONLY | O_APPEND | O_CLOEXEC);
		int wanted = snprintf(line, sizeof(line), "%.*s%020lld\n", MARK_LEN, message,
				      (long long)now.tv_sec * 1000000000LL + now.tv_nsec);

		if (file < 0 || write(file, line, (size_t)wanted) != wanted) {
			perror(argv[1]);
			return 1;
		}
	}
	return write(1, &result, sizeof(result)) == sizeof(result) ? 0 : 1;
}
