/* The function of count.c as a program, or as a command of WASI: event on standard input, result on standard output. */
#define TEMPOS_FUNCTION_ELSEWHERE
#include "count.c"

#include <unistd.h>

int main(void)
{
	static uint8_t body[1 << 17];
	uint8_t output[64];
	char text[64] = "";
	struct tempos_event event = { .size = sizeof(event), .body = body };
	struct tempos_result result = {
		.size = sizeof(result), .output = output, .room = sizeof(output), .text = text, .text_room = sizeof(text),
	};
	ssize_t n;

	while ((n = read(0, body + event.length, sizeof(body) - event.length)) > 0)
		event.length += n;
	if (tempos_function(&event, &result))
		return 65;
	return write(1, output, result.length) == (ssize_t)result.length ? 0 : 1;
}
