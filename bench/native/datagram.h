/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the traffic loops share: clocks, the test datagram, which errors of the kernel pass.
 *
 * A test datagram carries its sequence (event header, or big-endian behind a raw topic byte) and then
 * bytes that follow from the sequence and their place, so that a receiver can check every one.
 */
#ifndef TEMPOS_BENCH_DATAGRAM_H
#define TEMPOS_BENCH_DATAGRAM_H

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <linux/types.h>

#include "abi.h"

#define DATAGRAM_MAX 2048
#define GSO_MAX 65000
#define RAW_HEADER_LEN 5
#define SECOND 1000000000ULL
#define MILLISECOND 1000000ULL

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * SECOND + now.tv_nsec;
}

static void sleep_until(uint64_t when_ns)
{
	struct timespec when = { .tv_sec = when_ns / SECOND, .tv_nsec = when_ns % SECOND };

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL);
}

static uint8_t body_byte(uint32_t sequence, unsigned int at)
{
	return (uint8_t)(sequence * 7 + at);
}

static void write_event_header(uint8_t *to, uint8_t topic, uint32_t publisher, uint32_t sequence, uint64_t sent_ns)
{
	struct tempos_event_header header = {
		.topic = topic,
		.version_flags = TEMPOS_WIRE_VERSION << 4,
		.publisher = htonl(publisher),
		.sequence = htonl(sequence),
		.sent_ns = htobe64(sent_ns),
	};

	memcpy(to, &header, sizeof(header));
}

static int is_transient(int error)
{
	return error == ENOBUFS || error == EAGAIN || error == ECONNREFUSED;
}

#endif
