// SPDX-License-Identifier: Apache-2.0
/*
 * Workers that run compiled functions and programs: what Python calls (functions.cdef).
 *
 * A worker is a process with one function. Python reads its specification and finds out what it takes; from
 * then on it is inside tempos_worker_serve(), without the interpreter's lock.
 */
#include "direct.h"
#include "functions_budget.h"
#include "worker_loop.h"
#include "worker_log.h"
#include "functions_dlf.h"
#include "functions_spawn.h"
#include "functions_wasm_open.h"

struct tempos_worker *tempos_worker_new(uint64_t timeout_ns, uint32_t output)
{
	struct tempos_worker *worker = calloc(1, sizeof(*worker));

	if (worker) {
		worker->timeout_ns = timeout_ns;
		worker->room = output && output < TEMPOS_LARGEST_OUTPUT ? output : TEMPOS_LARGEST_OUTPUT;
	}
	return worker;
}

void tempos_worker_close(struct tempos_worker *worker)
{
	if (worker->engine)
		worker->engine->close(worker->engine);
	for (uint32_t i = 0; i < worker->places; i++)
		free(worker->place[i].topic);
	free(worker->place);
	free(worker);
}

int tempos_worker_dlf(struct tempos_worker *worker, const char *path, int keep, char *why, unsigned int room)
{
	worker->engine = open_dlf(path, keep, why, room);
	return worker->engine ? 0 : -1;
}

int tempos_worker_spawn(struct tempos_worker *worker, const struct tempos_spawn_settings *settings, char *why,
			unsigned int room)
{
	worker->engine = open_spawn(settings, why, room);
	return worker->engine ? 0 : -1;
}

int tempos_worker_wasm(struct tempos_worker *worker, const struct tempos_wasm_settings *settings, char *why,
		       unsigned int room)
{
	struct wasm *wasm = new_wasm(settings, why, room);

	worker->engine = wasm ? &wasm->engine : NULL;
	return wasm ? 0 : -1;
}

int tempos_wasm_module(struct tempos_worker *worker, const uint8_t *bytes, size_t length, int compiled, char *why,
		       unsigned int room)
{
	return set_module((struct wasm *)worker->engine, bytes, length, compiled, why, room);
}

size_t tempos_wasm_compiled(struct tempos_worker *worker, uint8_t *to, size_t room)
{
	struct wasm *wasm = (struct wasm *)worker->engine;
	char why[TEMPOS_TEXT];
	bytes_t bytes;
	void *error = wasm->api.wasmtime_module_serialize(wasm->module, &bytes);
	size_t length;

	if (error) {
		take_error(&wasm->api, error, why, sizeof(why));
		return 0;
	}
	length = bytes.size;
	if (to)
		memcpy(to, bytes.data, length < room ? length : room);
	wasm->api.wasm_byte_vec_delete(&bytes);
	return length;
}

int tempos_wasm_bind(struct tempos_worker *worker, char *why, unsigned int room)
{
	return bind_wasm((struct wasm *)worker->engine, why, room);
}

int tempos_worker_place(struct tempos_worker *worker, uint32_t number, const char *topic, const char *workflow,
			const char *step)
{
	size_t lengths[] = { strlen(topic) + 1, strlen(workflow) + 1, strlen(step) + 1 };
	char *text;

	if (number >= TEMPOS_PLACES)
		return -ERANGE;
	if (number >= worker->places) {
		struct place *grown = realloc(worker->place, (number + 1) * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		memset(grown + worker->places, 0, (number + 1 - worker->places) * sizeof(*grown));
		worker->place = grown;
		worker->places = number + 1;
	}
	text = malloc(lengths[0] + lengths[1] + lengths[2]);
	if (!text)
		return -ENOMEM;
	free(worker->place[number].topic);
	worker->place[number] = (struct place){
		.topic = memcpy(text, topic, lengths[0]),
		.workflow = memcpy(text + lengths[0], workflow, lengths[1]),
		.step = memcpy(text + lengths[0] + lengths[1], step, lengths[2]),
	};
	return 0;
}

int tempos_worker_serve(struct tempos_worker *worker, int fd, struct tempos_place *told)
{
	int code = serve(worker, fd);

	if (code == 1)
		*told = (struct tempos_place){
			.number = worker->told.place,
			.length = worker->told.length,
			.text = worker->in + worker->at - worker->told.length,
		};
	return code;
}

int tempos_worker_once(struct tempos_worker *worker, const uint8_t *body, size_t length, struct tempos_once *once)
{
	struct invocation now = { .head = { .length = length, .attempt = 1 }, .body = body };

	if (length > TEMPOS_LARGEST_BODY)
		return -E2BIG;
	carry_out(worker, &now);
	*once = (struct tempos_once){
		.started_ns = now.started_ns,
		.ready_ns = now.ready_ns,
		.ended_ns = monotonic_ns(),
		.length = now.length,
		.condition = now.condition,
		.flags = now.flags,
		.output = now.output,
	};
	/* As between two events. */
	if (worker->engine->idle)
		while (worker->engine->idle(worker->engine))
			;
	return 0;
}

int tempos_budget_start(uint64_t budget_ns, uint64_t window_ns)
{
	return start_budget(budget_ns, window_ns);
}

unsigned int tempos_budget_held(void)
{
	return budget_held;
}

size_t tempos_direct_size(void)
{
	return sizeof(struct direct_memory);
}

struct tempos_direct *tempos_direct_map(int descriptor)
{
	return (struct tempos_direct *)direct_map(descriptor);
}

void tempos_direct_unmap(struct tempos_direct *direct)
{
	munmap(direct, sizeof(struct direct_memory));
}

int tempos_direct_alarm(void)
{
	int alarm = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

	return alarm < 0 ? -errno : alarm;
}

void tempos_direct_turn(struct tempos_direct *direct, uint64_t turn)
{
	__atomic_store_n(&direct->turn, turn, __ATOMIC_SEQ_CST);
}

int tempos_direct_receives(struct tempos_direct *direct)
{
	uint64_t received = __atomic_load_n(&direct->received, __ATOMIC_SEQ_CST);

	return __atomic_load_n(&direct->receives, __ATOMIC_SEQ_CST) == received + 1;
}

int tempos_direct_look(struct tempos_direct *direct, uint64_t number, int pending, struct tempos_datagram *found)
{
	return direct_look((struct direct_memory *)direct, number, pending, found);
}

int tempos_direct_run(struct tempos_direct *direct, uint64_t number, uint64_t end, int topic, struct tempos_run *run)
{
	return direct_run((struct direct_memory *)direct, number, end, topic, run);
}

void tempos_direct_take(struct tempos_direct *direct, uint64_t taken)
{
	__atomic_store_n(&direct->taken, taken, __ATOMIC_RELEASE);
}

struct tempos_reader *tempos_reader_new(struct tempos_direct *direct, uint64_t turn, int topic, int data, int calls,
					int alarm)
{
	struct tempos_reader *reader = calloc(1, sizeof(*reader));

	if (reader)
		*reader = (struct tempos_reader){
			.memory = (struct direct_memory *)direct,
			.turn = turn,
			.first = direct->received,
			.kicked = direct->received,
			.data = data,
			.calls = calls,
			.alarm = alarm,
			.topic = topic,
		};
	return reader;
}

void tempos_reader_close(struct tempos_reader *reader)
{
	free(reader);
}

int tempos_reader_next(struct tempos_reader *reader, struct tempos_datagram *found)
{
	return direct_next(reader, found);
}
