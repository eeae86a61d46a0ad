/* SPDX-License-Identifier: Apache-2.0 */
/* msgpack, as far as control datagrams need it: section 4 of WIRE.md. Foreign bytes never lead beyond their end. */
#include <string.h>

#include "inside.h"

/* Maps and lists in each other: more than any reply has. */
#define DEPTH 8

void tempos_add(struct tempos_writer *to, const void *bytes, size_t length)
{
	if (length > sizeof(to->bytes) - to->length) {
		to->full = true;
		return;
	}
	memcpy(to->bytes + to->length, bytes, length);
	to->length += length;
}

void tempos_add_head(struct tempos_writer *to, uint8_t code, uint64_t value, size_t bytes)
{
	uint8_t head[9] = {code};

	tempos_put(head + 1, value, bytes);
	tempos_add(to, head, 1 + bytes);
}

void tempos_add_number(struct tempos_writer *to, uint64_t value)
{
	if (value < 0x80)
		tempos_add_head(to, (uint8_t)value, 0, 0);
	else if (value <= 0xff)
		tempos_add_head(to, 0xcc, value, 1);
	else if (value <= 0xffff)
		tempos_add_head(to, 0xcd, value, 2);
	else if (value <= 0xffffffff)
		tempos_add_head(to, 0xce, value, 4);
	else
		tempos_add_head(to, 0xcf, value, 8);
}

void tempos_add_text(struct tempos_writer *to, const char *text)
{
	const size_t length = strlen(text);

	if (length < 32)
		tempos_add_head(to, 0xa0 | (uint8_t)length, 0, 0);
	else
		tempos_add_head(to, 0xd9, length, 1);
	tempos_add(to, text, length);
}

void tempos_add_list(struct tempos_writer *to, size_t items)
{
	if (items < 16)
		tempos_add_head(to, 0x90 | (uint8_t)items, 0, 0);
	else
		tempos_add_head(to, 0xdc, items, 2);
}

void tempos_add_true(struct tempos_writer *to)
{
	tempos_add_head(to, 0xc3, 0, 0);
}

static bool take(struct tempos_reader *from, size_t bytes, uint64_t *out)
{
	*out = 0;
	if ((size_t)(from->end - from->at) < bytes)
		return false;
	while (bytes--)
		*out = *out << 8 | *from->at++;
	return true;
}

static bool read_bytes(struct tempos_reader *from, enum tempos_kind kind, size_t width, uint64_t length, struct tempos_value *out)
{
	if (width && !take(from, width, &length))
		return false;
	if (length > (size_t)(from->end - from->at))
		return false;
	*out = (struct tempos_value){.kind = kind, .bytes = from->at, .length = (size_t)length};
	from->at += length;
	return true;
}

static bool read_items(struct tempos_reader *from, enum tempos_kind kind, size_t width, uint64_t items, struct tempos_value *out)
{
	if (width && !take(from, width, &items))
		return false;
	*out = (struct tempos_value){.kind = kind, .length = (size_t)items};
	/* Each item takes a byte at least. */
	return items <= (size_t)(from->end - from->at);
}

static bool read_signed(struct tempos_reader *from, size_t width, struct tempos_value *out)
{
	uint64_t number;

	if (!take(from, width, &number))
		return false;
	out->kind = TEMPOS_NUMBER;
	out->negative = number >> (8 * width - 1);
	/* The two's complement in 64 bits. */
	out->number = out->negative && width < 8 ? number | ~0ull << (8 * width) : number;
	return true;
}

bool tempos_read_value(struct tempos_reader *from, struct tempos_value *out)
{
	uint64_t code;

	memset(out, 0, sizeof(*out));
	if (!take(from, 1, &code))
		return false;
	if (code < 0x80 || code >= 0xe0) {
		*out = (struct tempos_value){.kind = TEMPOS_NUMBER, .negative = code >= 0xe0};
		out->number = code < 0x80 ? code : code | ~0xffull;
		return true;
	}
	if (code < 0x90)
		return read_items(from, TEMPOS_MAP, 0, code & 15, out);
	if (code < 0xa0)
		return read_items(from, TEMPOS_LIST, 0, code & 15, out);
	if (code < 0xc0)
		return read_bytes(from, TEMPOS_TEXT, 0, code & 31, out);
	switch (code) {
	case 0xc0:
		return true;
	case 0xc2:
	case 0xc3:
		out->kind = TEMPOS_OTHER;
		out->number = code & 1;
		return true;
	case 0xc4:
	case 0xc5:
	case 0xc6:
		return read_bytes(from, TEMPOS_BYTES, 1u << (code - 0xc4), 0, out);
	case 0xca:
	case 0xcb:
		out->kind = TEMPOS_OTHER;
		return take(from, code == 0xca ? 4 : 8, &out->number);
	case 0xcc:
	case 0xcd:
	case 0xce:
	case 0xcf:
		out->kind = TEMPOS_NUMBER;
		return take(from, 1u << (code - 0xcc), &out->number);
	case 0xd0:
	case 0xd1:
	case 0xd2:
	case 0xd3:
		return read_signed(from, 1u << (code - 0xd0), out);
	case 0xd9:
	case 0xda:
	case 0xdb:
		return read_bytes(from, TEMPOS_TEXT, 1u << (code - 0xd9), 0, out);
	case 0xdc:
	case 0xdd:
		return read_items(from, TEMPOS_LIST, 2u << (code - 0xdc), 0, out);
	case 0xde:
	case 0xdf:
		return read_items(from, TEMPOS_MAP, 2u << (code - 0xde), 0, out);
	}
	/* Extension types: none is in use. */
	return false;
}

bool tempos_pass_over(struct tempos_reader *from, int depth)
{
	struct tempos_value value;

	if (depth > DEPTH || !tempos_read_value(from, &value))
		return false;
	if (value.kind != TEMPOS_LIST && value.kind != TEMPOS_MAP)
		return true;
	for (size_t left = value.kind == TEMPOS_MAP ? 2 * value.length : value.length; left; left--)
		if (!tempos_pass_over(from, depth + 1))
			return false;
	return true;
}

bool tempos_is_text(const struct tempos_value *value, const char *text)
{
	return value->kind == TEMPOS_TEXT && value->length == strlen(text) && !memcmp(value->bytes, text, value->length);
}

/* The value under a key of the map that begins here, if it is of that kind; `inside` stands behind its head. */
bool tempos_find(const uint8_t *map, const uint8_t *end, const char *key, enum tempos_kind kind, struct tempos_value *out,
		 struct tempos_reader *inside)
{
	struct tempos_reader from = {map, end};
	struct tempos_value head, name;

	if (!tempos_read_value(&from, &head) || head.kind != TEMPOS_MAP)
		return false;
	for (size_t left = head.length; left; left--) {
		struct tempos_reader here;

		if (!tempos_read_value(&from, &name) || name.kind == TEMPOS_LIST || name.kind == TEMPOS_MAP)
			return false;
		here = from;
		if (!tempos_pass_over(&from, 1))
			return false;
		if (!tempos_is_text(&name, key))
			continue;
		if (inside) {
			*inside = here;
			return tempos_read_value(inside, out) && out->kind == kind;
		}
		return tempos_read_value(&here, out) && out->kind == kind;
	}
	return false;
}

bool tempos_find_number(const uint8_t *map, const uint8_t *end, const char *key, uint64_t most, uint64_t *out)
{
	struct tempos_value value;

	if (!tempos_find(map, end, key, TEMPOS_NUMBER, &value, NULL) || value.negative || value.number > most)
		return false;
	*out = value.number;
	return true;
}
