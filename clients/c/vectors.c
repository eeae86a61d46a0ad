/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Says what this client makes of test vectors, a line each, so that anything can compare it. On standard input:
 *
 *   decode HEX                                          encode TOPIC PUBLISHER SEQUENCE SENT-NS FLAGS HEX
 *   gaps [in_force EPOCH | see BYTE SEQUENCE | new_broker | acknowledge EPOCH DATAGRAMS]...
 *   unpack HEX                                          what a control datagram is made of
 */
#include "tempos.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inside.h"

static size_t from_hex(const char *text, uint8_t *out)
{
	size_t length = 0;
	unsigned byte;

	while (text && sscanf(text, "%2x", &byte) == 1) {
		out[length++] = (uint8_t)byte;
		text += 2;
	}
	return length;
}

static void print_hex(const uint8_t *bytes, size_t length)
{
	while (length--)
		printf("%02x", *bytes++);
}

static const char *reason(int found)
{
	switch (found) {
	case TEMPOS_EMPTY:
		return "EMPTY";
	case TEMPOS_SHORT_HEADER:
		return "SHORT_HEADER";
	case TEMPOS_BAD_VERSION:
		return "BAD_VERSION";
	case TEMPOS_RESERVED_BITS:
		return "RESERVED_BITS";
	case TEMPOS_RESERVED_TOPIC:
		return "RESERVED_TOPIC";
	case TEMPOS_BAD_ENVELOPE:
		return "BAD_ENVELOPE";
	}
	return NULL;
}

static void decode(const uint8_t *bytes, size_t length)
{
	struct tempos_event event;
	const uint8_t *body;
	size_t at = 0, size;
	const char *refused = reason(tempos_decode(bytes, length, &event));
	int more;

	if (refused) {
		printf("refused %s\n", refused);
		return;
	}
	/* Looked at before anything is printed: a batch may turn out to be none. */
	while ((more = tempos_next_body(&event, &at, &body, &size)) > 0)
		;
	if (more < 0) {
		puts("refused BATCH");
		return;
	}
	printf("%u %u %u %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu64 " ", event.topic, event.flags, event.epoch,
	       event.publisher, event.sequence, event.delivery_sequence, event.sent_ns);
	if (event.envelope)
		print_hex(event.envelope, TEMPOS_ENVELOPE_LEN);
	else
		putchar('-');
	for (at = 0; tempos_next_body(&event, &at, &body, &size) > 0;) {
		putchar(' ');
		putchar('.');
		print_hex(body, size);
	}
	putchar('\n');
}

static void encode(void)
{
	static uint8_t body[TEMPOS_DATAGRAM_MAX], out[TEMPOS_DATAGRAM_MAX];
	uint64_t numbers[5];
	size_t length;

	for (size_t i = 0; i < 5; i++)
		numbers[i] = strtoull(strtok(NULL, " \n"), NULL, 10);
	length = from_hex(strtok(NULL, " \n"), body);
	print_hex(out, tempos_encode(out, sizeof(out), (uint16_t)numbers[0], (uint32_t)numbers[1],
				     (uint32_t)numbers[2], numbers[3], (uint8_t)numbers[4], body, length));
	putchar('\n');
}

static uint64_t argument(void)
{
	return strtoull(strtok(NULL, " \n"), NULL, 10);
}

static void count(void)
{
	static struct tempos_gaps gaps;
	const char *word;

	tempos_gaps_begin(&gaps);
	while ((word = strtok(NULL, " \n"))) {
		if (!strcmp(word, "in_force")) {
			tempos_gaps_in_force(&gaps, (uint32_t)argument());
		} else if (!strcmp(word, "new_broker")) {
			tempos_gaps_new_broker(&gaps);
		} else if (!strcmp(word, "acknowledge")) {
			const uint32_t epoch = (uint32_t)argument();

			tempos_gaps_acknowledge(&gaps, epoch, argument());
		} else {
			const uint8_t byte = (uint8_t)argument();

			printf("%" PRId64 " ", tempos_gaps_see(&gaps, byte, (uint32_t)argument()));
		}
	}
	printf("| %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64, tempos_gaps_received(&gaps),
	       tempos_gaps_missed(&gaps), gaps.late, gaps.duplicates, gaps.unstamped);
	for (size_t i = 0; i < EPOCHS; i++) {
		const struct tempos_epoch *epoch = gaps.epochs + i;

		if (epoch->used && (int64_t)tempos_gaps_told(epoch) != epoch->acknowledged)
			printf(" %" PRIu32 ":%" PRIu64, epoch->number, tempos_gaps_told(epoch));
	}
	putchar('\n');
}

static bool print_value(struct tempos_reader *from)
{
	struct tempos_value value;

	if (!tempos_read_value(from, &value))
		return false;
	switch (value.kind) {
	case TEMPOS_NUMBER:
		if (value.negative)
			printf("%" PRId64, (int64_t)value.number);
		else
			printf("%" PRIu64, value.number);
		return true;
	case TEMPOS_TEXT:
		printf("'");
		print_hex(value.bytes, value.length);
		return true;
	case TEMPOS_BYTES:
		printf(".");
		print_hex(value.bytes, value.length);
		return true;
	case TEMPOS_NOTHING:
		printf("-");
		return true;
	case TEMPOS_OTHER:
		printf(value.number ? "+" : "!");
		return true;
	case TEMPOS_LIST:
	case TEMPOS_MAP:
		printf(value.kind == TEMPOS_LIST ? "[" : "{");
		for (size_t left = value.kind == TEMPOS_MAP ? 2 * value.length : value.length; left; left--) {
			putchar(' ');
			if (!print_value(from))
				return false;
		}
		printf(value.kind == TEMPOS_LIST ? " ]" : " }");
		return true;
	}
	return false;
}

static void unpack(const uint8_t *bytes, size_t length)
{
	struct tempos_reader check = {bytes, bytes + length}, from = check;

	if (tempos_pass_over(&check, 0) && check.at == check.end && print_value(&from))
		putchar('\n');
	else
		puts("refused");
}

int main(void)
{
	static char line[4 * TEMPOS_DATAGRAM_MAX];
	static uint8_t bytes[TEMPOS_DATAGRAM_MAX];

	while (fgets(line, sizeof(line), stdin)) {
		const char *what = strtok(line, " \n");

		if (!what)
			continue;
		if (!strcmp(what, "decode"))
			decode(bytes, from_hex(strtok(NULL, " \n"), bytes));
		else if (!strcmp(what, "encode"))
			encode();
		else if (!strcmp(what, "gaps"))
			count();
		else if (!strcmp(what, "unpack"))
			unpack(bytes, from_hex(strtok(NULL, " \n"), bytes));
	}
	return 0;
}
