/*
 * A function with something to compute: how often a pattern occurs in a text, then powers and square roots.
 *
 * Event: JSON, {"message": "...", "pattern": "..."}, without escapes. Result: a double, little-endian.
 */
#include "tempos_function.h"

static int is_at(const uint8_t *text, const void *pattern, size_t length)
{
	const uint8_t *bytes = pattern;

	while (length && text[length - 1] == bytes[length - 1])
		length--;
	return !length;
}

/* The text behind "key" : */
static const uint8_t *value_of(const struct tempos_event *event, const char *key, size_t key_length, size_t *length)
{
	size_t i, begin;

	for (i = 0; i + key_length + 2 < event->length; i++) {
		if (event->body[i] != '"' || !is_at(event->body + i + 1, key, key_length) ||
		    event->body[i + 1 + key_length] != '"')
			continue;
		for (i += key_length + 2; i < event->length && event->body[i] != '"'; i++)
			;
		for (begin = ++i; i < event->length && event->body[i] != '"'; i++)
			;
		*length = i - begin;
		return i < event->length ? event->body + begin : 0;
	}
	return 0;
}

TEMPOS_FUNCTION(event, result)
{
	size_t length, pattern_length, occurrences = 0;
	const uint8_t *message = value_of(event, "message", 7, &length);
	const uint8_t *pattern = value_of(event, "pattern", 7, &pattern_length);
	double sum = 0;

	if (!message || !pattern || !pattern_length)
		return TEMPOS_REFUSE(result, "a message and a pattern are needed");
	for (size_t i = 0; i + pattern_length <= length;) {
		int here = is_at(message + i, pattern, pattern_length);

		occurrences += here;
		i += here ? pattern_length : 1;
	}
	for (size_t i = 0; i < occurrences; i++)
		sum += i % 2 ? __builtin_sqrt((double)i) : (double)i * (double)i;
	result->length = sizeof(sum);
	if (result->length <= result->room)
		__builtin_memcpy(result->output, &sum, sizeof(sum));
	return TEMPOS_OK;
}
