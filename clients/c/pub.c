/* SPDX-License-Identifier: Apache-2.0 */
/* Publishes each line of standard input: pub ADDRESS TOPIC [CONTROL-PORT [DATA-PORT]]. */
#include "tempos.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
	static struct tempos_publisher publisher;
	static char line[TEMPOS_DATAGRAM_MAX];

	if (argc < 3 || argc > 5) {
		fprintf(stderr, "usage: %s ADDRESS TOPIC [CONTROL-PORT [DATA-PORT]]\n", argv[0]);
		return 2;
	}
	if (tempos_publisher_open(&publisher, argv[1], argc > 3 ? (uint16_t)atoi(argv[3]) : 0,
				  argc > 4 ? (uint16_t)atoi(argv[4]) : 0, argv[2])) {
		fprintf(stderr, "%s\n", tempos_error(&publisher.link));
		return 1;
	}
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (tempos_publish(&publisher, line, strlen(line))) {
			fprintf(stderr, "%s\n", tempos_error(&publisher.link));
			return 1;
		}
	}
	tempos_publisher_close(&publisher);
	return 0;
}
