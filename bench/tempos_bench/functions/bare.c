/* The function of count.c as an exported function that imports nothing, so that any engine's binding can call it. */
#define TEMPOS_FUNCTION_ELSEWHERE
#include "count.c"

static uint8_t bare_body[1 << 17], bare_output[64];

__attribute__((export_name("tempos_alloc"))) uint8_t *tempos_alloc(uint32_t length)
{
	return length <= sizeof(bare_body) ? bare_body : 0;
}

__attribute__((export_name("tempos_call"))) uint64_t tempos_call(const uint8_t *body, uint32_t length)
{
	struct tempos_event event = { .size = sizeof(event), .body = body, .length = length };
	struct tempos_result result = { .size = sizeof(result), .output = bare_output, .room = sizeof(bare_output) };

	if (tempos_function(&event, &result))
		return (uint64_t)1 << 63;
	return (uint64_t)(uintptr_t)result.output << 32 | (uint32_t)result.length;
}
