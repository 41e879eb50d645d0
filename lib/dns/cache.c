/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "cache.h"

#include <errno.h>
#include <string.h>

#include "ring/memory.h"

#define NS_PER_S UINT64_C(1000000000)
/* An entry counts with its own memory, its buckets, and what allocators add. */
#define OVERHEAD_BYTES 80
/* Hits from which on a name is hot. */
#define HOT_HITS 4
/* The part of its time at the end of which a hot name is asked for again: a tenth. */
#define HOT_PART 10

struct kl_cached {
	struct kl_cached *next; /* in the bucket */
	struct kl_cached *newer;
	struct kl_cached *older;
	struct kl_answer *answer;
	size_t bytes;
	uint32_t hash;
	uint32_t hits;
	uint16_t type;
	uint16_t flags;
	bool refreshing; /* KL_FOUND_HOT was told */
	uint8_t name_bytes;
	uint8_t name[];
};

static uint32_t hash_name(const struct kl_cache *cache, const uint8_t *name, size_t bytes)
{
	return kl_hash(cache->seed, name, bytes);
}

static struct kl_cached **bucket_of(const struct kl_cache *cache, uint32_t hash)
{
	return &cache->buckets[hash & (cache->bucket_count - 1)];
}

static void unlink_use(struct kl_cache *cache, struct kl_cached *entry)
{
	*(entry->newer ? &entry->newer->older : &cache->newest) = entry->older;
	*(entry->older ? &entry->older->newer : &cache->oldest) = entry->newer;
}

static void link_use(struct kl_cache *cache, struct kl_cached *entry)
{
	entry->newer = NULL;
	entry->older = cache->newest;
	*(cache->newest ? &cache->newest->newer : &cache->oldest) = entry;
	cache->newest = entry;
}

static void drop(struct kl_cache *cache, struct kl_cached *entry)
{
	struct kl_cached **link = bucket_of(cache, entry->hash);

	while (*link != entry)
		link = &(*link)->next;
	*link = entry->next;
	unlink_use(cache, entry);
	cache->bytes -= entry->bytes;
	cache->entries--;
	kl_answer_unref(entry->answer);
	kl_free(entry);
}

static struct kl_cached *find(const struct kl_cache *cache, const struct kl_key *key, uint32_t hash)
{
	struct kl_cached *entry = cache->bucket_count != 0 ? *bucket_of(cache, hash) : NULL;

	for (; entry; entry = entry->next) {
		if (entry->hash == hash && entry->type == key->type && entry->flags == key->flags &&
		    entry->name_bytes == key->name_bytes &&
		    kl_same_text(entry->name, key->name, key->name_bytes))
			break;
	}
	return entry;
}

enum kl_found kl_cache_find(struct kl_cache *cache, const struct kl_key *key, uint64_t now_ns,
			    struct kl_answer **ret_answer)
{
	struct kl_cached *entry = find(cache, key, hash_name(cache, key->name, key->name_bytes));
	uint64_t age_ns, life_ns;

	if (!entry)
		return KL_FOUND_NOTHING;
	age_ns = now_ns - entry->answer->born_ns;
	life_ns = entry->answer->ttl_s * NS_PER_S;
	if (age_ns >= life_ns + cache->stale_s * NS_PER_S) {
		drop(cache, entry);
		return KL_FOUND_NOTHING;
	}
	unlink_use(cache, entry);
	link_use(cache, entry);
	*ret_answer = entry->answer;
	if (age_ns >= life_ns)
		return KL_FOUND_STALE;
	entry->hits++;
	if (entry->hits >= HOT_HITS && !entry->refreshing && entry->answer->result == 0 &&
	    life_ns - age_ns < life_ns / HOT_PART) {
		entry->refreshing = true;
		return KL_FOUND_HOT;
	}
	return KL_FOUND_FRESH;
}

/* Twice as many buckets, so that lists stay short. Without memory they grow longer. */
static void grow(struct kl_cache *cache)
{
	size_t count = cache->bucket_count != 0 ? 2 * cache->bucket_count : 64;
	struct kl_cached **buckets = kl_calloc(count, sizeof(struct kl_cached *));
	struct kl_cached **old = cache->buckets;
	size_t old_count = cache->bucket_count;

	if (!buckets)
		return;
	cache->buckets = buckets;
	cache->bucket_count = count;
	for (size_t i = 0; i < old_count; i++) {
		while (old[i]) {
			struct kl_cached *entry = old[i];

			old[i] = entry->next;
			entry->next = *bucket_of(cache, entry->hash);
			*bucket_of(cache, entry->hash) = entry;
		}
	}
	kl_free(old);
}

void kl_cache_put(struct kl_cache *cache, const struct kl_key *key, struct kl_answer *answer)
{
	size_t bytes = sizeof(struct kl_cached) + key->name_bytes + sizeof(*answer) +
		       answer->bytes + OVERHEAD_BYTES;
	uint32_t hash = hash_name(cache, key->name, key->name_bytes);
	struct kl_cached *entry = find(cache, key, hash);
	uint32_t hits = entry ? entry->hits / 2 : 0;

	if (entry)
		drop(cache, entry);
	if (!answer->cacheable || answer->ttl_s == 0 || bytes > cache->max_bytes / 4)
		return;
	/* Most names that are asked for are not there: an empty bucket says so at once. */
	if (2 * cache->entries >= cache->bucket_count)
		grow(cache);
	entry = cache->bucket_count != 0 ? kl_malloc(sizeof(*entry) + key->name_bytes) : NULL;
	if (!entry)
		return;
	while (cache->bytes + bytes > cache->max_bytes)
		drop(cache, cache->oldest);
	*entry = (struct kl_cached){
		.answer = kl_answer_ref(answer),
		.bytes = bytes,
		.hash = hash,
		.hits = hits,
		.type = key->type,
		.flags = key->flags,
		.name_bytes = (uint8_t)key->name_bytes,
	};
	memcpy(entry->name, key->name, key->name_bytes);
	entry->next = *bucket_of(cache, hash);
	*bucket_of(cache, hash) = entry;
	link_use(cache, entry);
	cache->bytes += bytes;
	cache->entries++;
}

int kl_cache_flush(struct kl_cache *cache, const uint8_t *name)
{
	size_t bytes = name ? kl_name_length(name) : 0;
	struct kl_cached *entry = cache->newest;
	int count = 0;

	if (name && cache->bucket_count != 0)
		entry = *bucket_of(cache, hash_name(cache, name, bytes));
	while (entry) {
		struct kl_cached *next = name ? entry->next : entry->older;

		if (!name || (entry->name_bytes == bytes && kl_same_text(entry->name, name, bytes))) {
			drop(cache, entry);
			count++;
		}
		entry = next;
	}
	return count;
}

void kl_cache_free(struct kl_cache *cache)
{
	kl_cache_flush(cache, NULL);
	kl_free(cache->buckets);
	cache->buckets = NULL;
	cache->bucket_count = 0;
}
