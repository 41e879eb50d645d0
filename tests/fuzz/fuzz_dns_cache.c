/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The cache: each three bytes of the input put, find or flush an answer, or let
 * time pass. What is found must be the last that was put, and within its time.
 */
#include "dns/cache.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#define NAMES 32
#define SECOND UINT64_C(1000000000)

static struct kl_cache cache;
static uint64_t now;
/* The last answer put for each name and type; NULL: flushed. */
static struct kl_answer *last[NAMES][2];
static uint8_t name[4];

static struct kl_answer *make(uint32_t ttl_s, size_t bytes)
{
	struct kl_answer *answer = calloc(1, sizeof(*answer) + bytes);

	answer->refs = 1;
	answer->ttl_s = ttl_s;
	answer->bytes = bytes;
	answer->born_ns = now;
	answer->cacheable = true;
	return answer;
}

/* One of 32 names, in letters that differ in case. */
static struct kl_key key_of(uint8_t op, unsigned which)
{
	name[0] = 2;
	name[1] = (uint8_t)((op & 4 ? 'A' : 'a') + which % 16);
	name[2] = (uint8_t)('x' + which / 16);
	name[3] = 0;
	return (struct kl_key){ name, sizeof(name), op & 8 ? 28 : 1, 0 };
}

static void put(uint8_t op, unsigned which, uint8_t value)
{
	struct kl_answer *answer = make(value >> 4, (size_t)(value & 15) * 40);
	struct kl_key key = key_of(op, which);
	struct kl_answer **slot = &last[which][op & 8 ? 1 : 0];

	kl_cache_put(&cache, &key, answer);
	kl_answer_unref(*slot);
	*slot = answer;
}

static void look(uint8_t op, unsigned which)
{
	struct kl_key key = key_of(op, which);
	struct kl_answer *found = NULL, *expected = last[which][op & 8 ? 1 : 0];
	enum kl_found kind = kl_cache_find(&cache, &key, now, &found);
	uint64_t age_ns;

	if (kind == KL_FOUND_NOTHING)
		return; /* given up for others, or expired */
	if (found != expected)
		abort();
	age_ns = now - found->born_ns;
	if (kind == KL_FOUND_STALE ? age_ns < found->ttl_s * SECOND ||
					     age_ns >= (found->ttl_s + cache.stale_s) * SECOND :
				     age_ns >= found->ttl_s * SECOND)
		abort();
	if (kl_answer_ttl(found, now) > found->ttl_s)
		abort();
}

static void flush(uint8_t op, unsigned which)
{
	struct kl_key key = key_of(op, which);
	size_t entries = cache.entries;
	int count = kl_cache_flush(&cache, key.name);

	if (count < 0 || count > 2 || entries - cache.entries != (size_t)count)
		abort();
	for (int i = 0; i < 2; i++) {
		kl_answer_unref(last[which][i]);
		last[which][i] = NULL;
	}
}

/* The lists and the sums agree. */
static void check(void)
{
	size_t held = 0;

	if (cache.bytes > cache.max_bytes || (cache.entries == 0) != (cache.bytes == 0) ||
	    (cache.entries == 0) != (cache.newest == NULL) ||
	    (cache.entries == 0) != (cache.oldest == NULL))
		abort();
	for (unsigned i = 0; i < NAMES; i++) {
		for (int j = 0; j < 2; j++)
			held += last[i][j] && last[i][j]->refs == 2;
	}
	/* The cache holds one reference to what it has, and to nothing else. */
	if (held != cache.entries)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	cache = (struct kl_cache){ .max_bytes = 1000 + 40u * data[0],
				   .stale_s = data[1] & 15,
				   .seed = data[1] };
	now = 1;
	for (size_t i = 2; i + 3 <= size; i += 3) {
		unsigned which = data[i + 1] % NAMES;

		switch (data[i] & 3) {
		case 0:
			put(data[i], which, data[i + 2]);
			break;
		case 1:
			look(data[i], which);
			break;
		case 2:
			now += data[i + 2] * (SECOND / 16);
			break;
		default:
			flush(data[i], which);
		}
		check();
	}
	kl_cache_free(&cache);
	for (unsigned i = 0; i < NAMES; i++) {
		for (int j = 0; j < 2; j++) {
			if (last[i][j] && last[i][j]->refs != 1)
				abort();
			kl_answer_unref(last[i][j]);
			last[i][j] = NULL;
		}
	}
	return 0;
}
