/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A function of tempos in C: one event in, one result out.
 *
 *     #include <string.h>
 *     #include <tempos_function.h>
 *
 *     TEMPOS_FUNCTION(event, result)
 *     {
 *             if (event->length > result->room)
 *                     return TEMPOS_REFUSE(result, "only short ones");
 *             memcpy(result->output, event->body, event->length);
 *             result->length = event->length;
 *             return TEMPOS_OK;
 *     }
 *
 * As a library (mode "dlf"):
 *
 *     cc -O2 -fPIC -shared -I "$(tempos function header)" -o echo.so echo.c
 *
 * The same source as a WebAssembly module (mode "wasm", entry "tempos_call"):
 *
 *     clang --target=wasm32-wasi -O2 -mexec-model=reactor -I "$(tempos function header)" -o echo.wasm echo.c
 *
 * A library is called by one thread, one event at a time, in a process that runs nothing else. It may keep
 * what it likes from one event to the next (a module cannot: each event finds it fresh); with
 * load = "call" it is opened and closed around each event, but what it depends on may stay, as dlclose(3)
 * has it. Several workers of a function share nothing. A crash, exit() included, ends the worker, and the
 * event with it; the next one gets a new worker. What goes to standard output and standard error is logged.
 */
#ifndef TEMPOS_FUNCTION_H
#define TEMPOS_FUNCTION_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One invocation. Fields are only ever added at the end; `size` tells how far this worker's go. */
struct tempos_event {
	uint32_t size;
	uint32_t attempt;     /* from 1 */
	uint32_t publisher;   /* publisher and sequence are the same however often the event comes again, */
	uint32_t sequence;    /* so what has been done once can be known by them */
	uint64_t sent_ns;     /* the publisher's wall clock */
	uint64_t left_ns;     /* how long the function may take */
	const uint8_t *body;  /* of `length` bytes, and not ended by a 0 */
	size_t length;
	const char *topic;    /* names; "" where nobody told */
	const char *workflow;
	const char *step;
};

/* What the function fills in. */
struct tempos_result {
	uint32_t size;
	uint32_t text_room;
	uint8_t *output;      /* where the result goes, `room` bytes */
	size_t room;
	size_t length;        /* of the result, 0 so far; more than `room` tells what it would have taken */
	char *text;           /* where an error's text goes, ended by a 0, `text_room` bytes with it; "" so far */
};

/* What it returns; any other number is an error of its own. */
enum {
	TEMPOS_OK = 0,
	TEMPOS_NOTHING = -1,  /* all is well, and there is no result */
	TEMPOS_REFUSED = -2,  /* it will not have this event, and would not later */
};

/* The one entry of a function. */
#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
int tempos_function(const struct tempos_event *event, struct tempos_result *result);

#define TEMPOS_FUNCTION(event, result) \
	int tempos_function(const struct tempos_event *event, struct tempos_result *result)

/* Says why, and gives back `code`, so that it can be returned. */
static inline int tempos_fail(struct tempos_result *result, int code, const char *why)
{
	uint32_t i = 0;

	for (; result->text_room && i < result->text_room - 1 && why[i]; i++)
		result->text[i] = why[i];
	if (result->text_room)
		result->text[i] = 0;
	return code;
}

#define TEMPOS_FAIL(result, code, why) tempos_fail(result, code, why)
#define TEMPOS_REFUSE(result, why) tempos_fail(result, TEMPOS_REFUSED, why)

#ifdef __wasm__
/*
 * How an exported function is called, in any language:
 *
 *     tempos_alloc(length: i32) -> i32            where the body shall be written; called once for each event
 *     ENTRY(body: i32, length: i32) -> i64        the result: its address in the upper half, its length in the
 *                                                 lower. Bit 63: it failed, and this is the text of why. Bits 63
 *                                                 and 31: it refused. -1: all is well, and there is no result.
 *     memory                                      is exported, too; so may be _initialize() -> (), called before
 *
 * What it may import, beside WASI (wasi_snapshot_preview1), from the module "tempos":
 *
 *     event(what: i32) -> i64                     0 publisher, 1 sequence, 2 attempt, 3 sent_ns, 4 left_ns, 5 room
 *     text(what: i32, to: i32, room: i32) -> i32  0 topic, 1 workflow, 2 step, written there, not ended by a 0;
 *                                                 gives its length, which may be more than the room
 *     told(to: i32, room: i32) -> i32             all of that at once, as struct tempos_wasm_told below, as far as
 *                                                 there is room; gives its length
 *     log(from: i32, length: i32)                 a line for the function's log
 *
 * All of the following goes into one file of a module: that which says TEMPOS_FUNCTION_ELSEWHERE has none.
 */
#ifndef TEMPOS_FUNCTION_ELSEWHERE
struct tempos_wasm_told {
	uint64_t sent_ns, left_ns;
	uint32_t publisher, sequence, attempt, room;
	char names[768];          /* topic, workflow and step, each ended by a 0 and cut off at 255 bytes */
};

__attribute__((import_module("tempos"), import_name("told"))) int tempos_ask(struct tempos_wasm_told *to, int room);

/* The largest result: as much as an event can hold. What a memory is large costs time at every event. */
#ifndef TEMPOS_WASM_ROOM
#define TEMPOS_WASM_ROOM (64 * 1024)
#endif
/* For a longer body the memory grows. */
#define TEMPOS_WASM_BODY (8 * 1024)
static uint8_t tempos_wasm_body[TEMPOS_WASM_BODY], tempos_wasm_output[TEMPOS_WASM_ROOM];
static char tempos_wasm_text[512];
static struct tempos_wasm_told tempos_wasm_told;

static const char *tempos_wasm_behind(const char *text)
{
	while (*text)
		text++;
	return text + 1;
}

__attribute__((export_name("tempos_alloc"))) uint8_t *tempos_alloc(uint32_t length)
{
	size_t pages = length / 65536 + 1, before;

	if (length <= TEMPOS_WASM_BODY)
		return tempos_wasm_body;
	before = __builtin_wasm_memory_grow(0, pages);
	return before == (size_t)-1 ? 0 : (uint8_t *)(before * 65536);
}

__attribute__((export_name("tempos_call"))) uint64_t tempos_call(const uint8_t *body, uint32_t length)
{
	struct tempos_wasm_told *told = &tempos_wasm_told;
	struct tempos_event event = { .size = sizeof(event), .body = body, .length = length };
	struct tempos_result result = {
		.size = sizeof(result),
		.text_room = sizeof(tempos_wasm_text),
		.output = tempos_wasm_output,
		.text = tempos_wasm_text,
	};
	uint64_t failed = (uint64_t)1 << 63;
	uint32_t text = 0;
	int code;

	tempos_ask(told, sizeof(*told));
	event.attempt = told->attempt;
	event.publisher = told->publisher;
	event.sequence = told->sequence;
	event.sent_ns = told->sent_ns;
	event.left_ns = told->left_ns;
	event.topic = told->names;
	event.workflow = tempos_wasm_behind(event.topic);
	event.step = tempos_wasm_behind(event.workflow);
	result.room = told->room < TEMPOS_WASM_ROOM ? told->room : TEMPOS_WASM_ROOM;
	code = tempos_function(&event, &result);
	if (code == TEMPOS_OK)
		return (uint64_t)(uintptr_t)result.output << 32 | (uint32_t)result.length;
	if (code == TEMPOS_NOTHING)
		return (uint64_t)-1;
	while (result.text[text])
		text++;
	return failed | (code == TEMPOS_REFUSED ? (uint64_t)1 << 31 : 0) |
	       (uint64_t)(uintptr_t)result.text << 32 | text;
}
#endif
#endif

#ifdef __cplusplus
}
#endif

#endif
