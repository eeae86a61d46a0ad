/* SPDX-License-Identifier: Apache-2.0 */
/* What a member knows of its own losses, see tempos.h: section 3 of WIRE.md. */
#include "tempos.h"

#include <string.h>

#include "inside.h"

/* A broker that is so many epochs behind what a datagram made us believe has never been there. */
#define NEVER_AHEAD 64

void tempos_gaps_begin(struct tempos_gaps *gaps)
{
	memset(gaps, 0, sizeof(*gaps));
	gaps->told = -1;
}

static struct tempos_epoch *epoch_of(struct tempos_gaps *gaps, uint32_t number)
{
	for (struct tempos_epoch *each = gaps->epochs; each < gaps->epochs + EPOCHS; each++)
		if (each->used && each->number == number)
			return each;
	return NULL;
}

static void retire(struct tempos_gaps *gaps, struct tempos_epoch *epoch)
{
	gaps->past_received += epoch->received;
	gaps->past_missed += epoch->missing;
	epoch->used = false;
}

static struct tempos_epoch *make_epoch(struct tempos_gaps *gaps, uint32_t number)
{
	struct tempos_epoch *found = NULL, *oldest = NULL;

	for (struct tempos_epoch *each = gaps->epochs; each < gaps->epochs + EPOCHS; each++) {
		if (!each->used)
			found = each;
		else if (each != gaps->current && (!oldest || each->number < oldest->number))
			oldest = each;
	}
	if (!found) {
		retire(gaps, oldest);
		found = oldest;
	}
	memset(found, 0, sizeof(*found));
	found->used = true;
	found->number = number;
	found->acknowledged = -1;
	return found;
}

static struct tempos_epoch *begin_epoch(struct tempos_gaps *gaps, uint32_t number)
{
	struct tempos_epoch *epoch = epoch_of(gaps, number);

	if (!epoch)
		epoch = make_epoch(gaps, number);
	gaps->current = epoch;
	for (struct tempos_epoch *each = gaps->epochs; each < gaps->epochs + EPOCHS; each++) {
		int64_t age = (int64_t)number - each->number;

		if (each->used && (age >= TEMPOS_EPOCHS_KEPT || (age > TEMPOS_EPOCHS_LATE &&
								 (int64_t)tempos_gaps_told(each) == each->acknowledged)))
			retire(gaps, each);
	}
	return epoch;
}

static void skip(struct tempos_epoch *epoch, uint32_t count)
{
	const uint64_t position = epoch->received + epoch->missing;

	if (epoch->holes == TEMPOS_HOLES_KEPT)
		memmove(epoch->hole, epoch->hole + 1, --epoch->holes * sizeof(epoch->hole[0]));
	epoch->hole[epoch->holes].start = position;
	epoch->hole[epoch->holes++].end = position + count;
	epoch->missing += count;
}

static bool fill(struct tempos_epoch *epoch, uint32_t back)
{
	const uint64_t position = epoch->received + epoch->missing - back;

	for (size_t i = 0; i < epoch->holes; i++) {
		const uint64_t start = epoch->hole[i].start, end = epoch->hole[i].end;

		if (position < start || position >= end)
			continue;
		if (start == position && end == position + 1) {
			memmove(epoch->hole + i, epoch->hole + i + 1,
				(--epoch->holes - i) * sizeof(epoch->hole[0]));
		} else if (start == position) {
			epoch->hole[i].start++;
		} else if (end == position + 1) {
			epoch->hole[i].end--;
		} else {
			epoch->hole[i].end = position;
			if (epoch->holes < TEMPOS_HOLES_KEPT) {
				memmove(epoch->hole + i + 2, epoch->hole + i + 1,
					(epoch->holes - i - 1) * sizeof(epoch->hole[0]));
				epoch->hole[i + 1].start = position + 1;
				epoch->hole[i + 1].end = end;
				epoch->holes++;
			}
		}
		epoch->missing--;
		epoch->received++;
		return true;
	}
	return false;
}

/* The epoch that ends with `byte`, if `near` is or was in force. */
static uint32_t full_epoch(uint8_t byte, uint32_t near)
{
	const uint32_t back = (near - byte) & 0xff;

	return back <= TEMPOS_EPOCHS_LATE && back <= near ? near - back : near + 0x100 - back;
}

/* The first datagram of another instance tells whether it goes on where the last one was. */
static void settle(struct tempos_gaps *gaps, uint8_t byte, uint32_t sequence)
{
	struct tempos_epoch *doubtful = gaps->doubtful;
	const uint32_t near = gaps->told < 0 ? doubtful->number : (uint32_t)gaps->told;
	const uint32_t number = full_epoch(byte, near);
	const bool goes_on = number == doubtful->number ? sequence - doubtful->expected < 0x80000000u
							: number > doubtful->number;

	gaps->doubtful = NULL;
	gaps->current = goes_on ? doubtful : NULL;
	for (struct tempos_epoch *each = gaps->epochs; each < gaps->epochs + EPOCHS; each++) {
		if (!each->used)
			continue;
		if (!goes_on) {
			retire(gaps, each);
			continue;
		}
		/* What has come so far another broker counts, not the one that answers now. */
		each->elsewhere = each->received;
		each->acknowledged = 0;
	}
}

int64_t tempos_gaps_see(struct tempos_gaps *gaps, uint8_t byte, uint32_t sequence)
{
	struct tempos_epoch *epoch;
	uint32_t number, ahead;

	if (gaps->doubtful)
		settle(gaps, byte, sequence);
	if (gaps->current)
		number = full_epoch(byte, gaps->current->number);
	else
		number = gaps->told < 0 ? 0x100u + byte : full_epoch(byte, (uint32_t)gaps->told);
	if (!gaps->current || number > gaps->current->number)
		epoch = begin_epoch(gaps, number);
	else if (!(epoch = epoch_of(gaps, number)))
		epoch = make_epoch(gaps, number);
	ahead = sequence - epoch->expected;
	if (ahead < 0x80000000u) {
		if (ahead)
			skip(epoch, ahead);
		epoch->received++;
		epoch->expected = sequence + 1;
		return ahead;
	}
	if (fill(epoch, 0u - ahead)) {
		gaps->late++;
		return TEMPOS_LATE;
	}
	if (!sequence && !byte && (gaps->told < 0 || !epoch->number)) {
		/* Straight from a publisher: no broker has stamped it. */
		gaps->unstamped++;
		return 0;
	}
	gaps->duplicates++;
	return TEMPOS_AGAIN;
}

void tempos_gaps_in_force(struct tempos_gaps *gaps, uint32_t number)
{
	gaps->told = number;
	if (gaps->doubtful)
		return;
	if (gaps->current && gaps->current->number > number && gaps->current->number - number > NEVER_AHEAD) {
		/* What came before anybody told, or later than can be, was taken as of an epoch to come. */
		for (struct tempos_epoch *each = gaps->epochs; each < gaps->epochs + EPOCHS; each++) {
			if (!each->used || each->number <= number)
				continue;
			if (((each->number ^ number) & 0xff) == 0 && !epoch_of(gaps, number))
				each->number = number;
			else
				retire(gaps, each);
		}
		gaps->current = epoch_of(gaps, number);
	}
	if (!gaps->current || gaps->current->number < number)
		begin_epoch(gaps, number);
}

void tempos_gaps_new_broker(struct tempos_gaps *gaps)
{
	gaps->told = -1;
	if (!gaps->current)
		return;
	gaps->doubtful = gaps->current;
	gaps->current = NULL;
}

uint64_t tempos_gaps_told(const struct tempos_epoch *epoch)
{
	return epoch->received - epoch->elsewhere;
}

void tempos_gaps_acknowledge(struct tempos_gaps *gaps, uint32_t number, uint64_t received)
{
	struct tempos_epoch *epoch = epoch_of(gaps, number);

	if (epoch && received <= tempos_gaps_told(epoch) && (int64_t)received > epoch->acknowledged)
		epoch->acknowledged = (int64_t)received;
}

uint64_t tempos_gaps_received(const struct tempos_gaps *gaps)
{
	uint64_t sum = gaps->past_received;

	for (const struct tempos_epoch *each = gaps->epochs; each < gaps->epochs + EPOCHS; each++)
		sum += each->used ? each->received : 0;
	return sum;
}

uint64_t tempos_gaps_missed(const struct tempos_gaps *gaps)
{
	uint64_t sum = gaps->past_missed;

	for (const struct tempos_epoch *each = gaps->epochs; each < gaps->epochs + EPOCHS; each++)
		sum += each->used ? each->missing : 0;
	return sum;
}
