/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints the events of a topic, a line each, until standard input ends or so many have come:
 * sub ADDRESS TOPIC [GROUP|- [COUNT [CONTROL-PORT]]]. What was lost stands in the last line, on standard error.
 */
#include "tempos.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
	static struct tempos_subscriber subscriber;
	unsigned long long left = argc > 4 ? strtoull(argv[4], NULL, 10) : 0;
	const bool counted = left > 0;
	int code;

	if (argc < 3 || argc > 6) {
		fprintf(stderr, "usage: %s ADDRESS TOPIC [GROUP|- [COUNT [CONTROL-PORT]]]\n", argv[0]);
		return 2;
	}
	if (tempos_subscriber_open(&subscriber, argv[1], argc > 5 ? (uint16_t)atoi(argv[5]) : 0, argv[2],
				   argc > 3 && strcmp(argv[3], "-") ? argv[3] : NULL)) {
		fprintf(stderr, "%s\n", tempos_error(&subscriber.link));
		return 1;
	}
	fprintf(stderr, "subscribed to %s in group %s\n", subscriber.name, subscriber.group);
	while (!counted || left) {
		struct pollfd input = {0, POLLIN, 0};
		const uint8_t *body;
		size_t length;

		code = tempos_next(&subscriber, 100, &body, &length);
		if (code < 0) {
			fprintf(stderr, "%s\n", tempos_error(&subscriber.link));
			return 1;
		}
		if (code) {
			fwrite(body, 1, length, stdout);
			putchar('\n');
			fflush(stdout);
			left -= counted;
		} else if (!counted && poll(&input, 1, 0) > 0 && getchar() == EOF) {
			break;
		}
	}
	code = tempos_subscriber_close(&subscriber);
	fprintf(stderr, "received %llu, missed %llu, late %llu, duplicates %llu, unknown %llu, foreign %llu, rejoined %llu\n",
		(unsigned long long)(subscriber.raw ? subscriber.datagrams : tempos_gaps_received(&subscriber.gaps)),
		(unsigned long long)tempos_gaps_missed(&subscriber.gaps),
		(unsigned long long)subscriber.gaps.late, (unsigned long long)subscriber.gaps.duplicates,
		(unsigned long long)subscriber.unknown, (unsigned long long)subscriber.foreign,
		(unsigned long long)subscriber.rejoined);
	return code ? 1 : 0;
}
