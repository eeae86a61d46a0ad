/* SPDX-License-Identifier: Apache-2.0 */
/* A publisher, see tempos.h. */
#define _GNU_SOURCE

#include "tempos.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "inside.h"

int tempos_publisher_open(struct tempos_publisher *self, const char *address, uint16_t control_port,
			  uint16_t data_port, const char *topic)
{
	struct tempos_writer request;
	struct tempos_reply reply;
	uint32_t id;
	int code;

	memset(self, 0, offsetof(struct tempos_publisher, out));
	self->data = -1;
	code = tempos_open_link(&self->link, address, control_port);
	if (code)
		return code;
	id = tempos_begin_request(&self->link, &request, "resolve", 1);
	tempos_add_text(&request, "topic");
	tempos_add_text(&request, topic);
	tempos_end_request(&request, PADDED_LONG, PAD);
	code = tempos_ask(&self->link, &request, id, &reply);
	if (!code)
		code = tempos_read_topic(&self->link, &reply, &self->topic, &self->raw);
	if (!code) {
		self->data_port = data_port ? data_port : TEMPOS_DATA_PORT;
		self->data = tempos_connected(&self->link, address, self->data_port);
		code = self->data < 0 ? self->data : 0;
	}
	if (!code && getrandom(&self->publisher, sizeof(self->publisher), 0) != sizeof(self->publisher))
		code = tempos_fail(&self->link, TEMPOS_FAILED_SYSTEM, "no random number: %s", strerror(errno));
	if (code)
		tempos_publisher_close(self);
	return code;
}

int tempos_publish(struct tempos_publisher *self, const void *body, size_t length)
{
	size_t size;

	if (self->raw) {
		const size_t head = tempos_put_id(self->out, self->topic);

		size = length <= sizeof(self->out) - head ? head + length : 0;
		if (size && length)
			memcpy(self->out + head, body, length);
	} else {
		size = tempos_encode(self->out, sizeof(self->out), self->topic, self->publisher, self->sequence,
				     tempos_wall_ns(), 0, body, length);
	}
	if (!size)
		return tempos_fail(&self->link, TEMPOS_FAILED_ARGUMENT, "a body of %zu bytes is larger than a datagram",
			    length);
	if (tempos_send(&self->link, self->data, self->data_port, self->out, size))
		return tempos_fail(&self->link, TEMPOS_FAILED_SYSTEM, "cannot send %zu bytes: %s", size, strerror(errno));
	self->sequence++;
	return 0;
}

void tempos_publisher_close(struct tempos_publisher *self)
{
	if (self->data >= 0)
		close(self->data);
	self->data = -1;
	tempos_close_link(&self->link);
}
