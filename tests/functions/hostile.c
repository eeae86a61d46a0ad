/*
 * A function that does what its event says, and most of it is bad: the event's first word is the deed.
 */
#include "tempos_function.h"

#ifndef __wasm__
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#endif

static int calls;

static int is(const struct tempos_event *event, const char *word)
{
	size_t i = 0;

	for (; word[i]; i++)
		if (i >= event->length || event->body[i] != (uint8_t)word[i])
			return 0;
	return i == event->length || event->body[i] == ' ';
}

static void put(struct tempos_result *result, const char *text)
{
	while (*text && result->length < result->room)
		result->output[result->length++] = (uint8_t)*text++;
}

static void put_number(struct tempos_result *result, uint64_t number)
{
	char text[24];
	int at = sizeof(text) - 1;

	text[at] = 0;
	do
		text[--at] = (char)('0' + number % 10);
	while (number /= 10);
	put(result, text + at);
}

#ifdef __wasm__
/* As long as it gets any, and touches it; how many pages it had in the end. */
static uint64_t grow(void)
{
	for (;;) {
		size_t before = __builtin_wasm_memory_grow(0, 16);

		if (before == (size_t)-1)
			return __builtin_wasm_memory_size(0);
		*(volatile int *)(before * 65536) = 1;
	}
}
#endif

TEMPOS_FUNCTION(event, result)
{
	calls++;
	if (is(event, "loop"))
		for (volatile int on = 1; on;)
			;
	if (is(event, "crash"))
#ifdef __wasm__
		__builtin_trap();
#else
		*(volatile int *)8 = 1;
	if (is(event, "exit"))
		exit(0);
	if (is(event, "sleep"))
		sleep(600);
#endif
	if (is(event, "large")) {
		result->length = result->room + 1;
		return TEMPOS_OK;
	}
	if (is(event, "nothing"))
		return TEMPOS_NOTHING;
	if (is(event, "refuse"))
		return TEMPOS_REFUSE(result, "not this one");
	if (is(event, "fail"))
		return TEMPOS_FAIL(result, 7, "seven is not enough");
	if (is(event, "calls"))
		put_number(result, (uint64_t)calls);
#ifdef __wasm__
	if (is(event, "grow"))
		put_number(result, grow());
	if (is(event, "wild"))
		result->output = (uint8_t *)0x7fff0000, result->length = 8;
#endif
	if (is(event, "who")) {
		put(result, event->topic);
		put(result, " ");
		put(result, event->workflow);
		put(result, " ");
		put(result, event->step);
		put(result, " ");
		put_number(result, event->publisher);
		put(result, " ");
		put_number(result, event->sequence);
		put(result, " ");
		put_number(result, event->attempt);
		put(result, " ");
		put_number(result, event->sent_ns);
		put(result, event->left_ns > 0 && event->left_ns <= 60000000000ull ? " in time" : " late");
	}
	if (is(event, "echo"))
		for (size_t i = 0; i < event->length && i < result->room; i++)
			result->output[result->length++] = event->body[i];
	return TEMPOS_OK;
}
