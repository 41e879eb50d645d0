/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The cache: answers by name and type, the least recently used given up first. */
#ifndef KL_DNS_CACHE_H
#define KL_DNS_CACHE_H

#include "answer.h"

struct kl_cached;

struct kl_cache {
	struct kl_cached **buckets;
	size_t bucket_count; /* a power of two */
	struct kl_cached *newest;
	struct kl_cached *oldest;
	size_t max_bytes;
	size_t bytes;
	size_t entries;
	uint32_t stale_s;
	uint64_t seed;
};

/* What an answer belongs to. The name is whole; case does not count. */
struct kl_key {
	const uint8_t *name;
	size_t name_bytes;
	uint16_t type;
	uint16_t flags; /* what changes the answer: of enum kloop_query_flag */
};

enum kl_found {
	KL_FOUND_NOTHING,
	KL_FOUND_FRESH,
	KL_FOUND_HOT,   /* fresh, about to expire, and used often: worth to be asked again now */
	KL_FOUND_STALE, /* expired, but kept for the case that no server answers */
};

/* *ret_answer is borrowed. */
enum kl_found kl_cache_find(struct kl_cache *cache, const struct kl_key *key, uint64_t now_ns,
			    struct kl_answer **ret_answer);
/* Keep a reference to the answer, in place of an older one. Without memory nothing happens. */
void kl_cache_put(struct kl_cache *cache, const struct kl_key *key, struct kl_answer *answer);
/* Drop all answers, or those for a name; their number. */
int kl_cache_flush(struct kl_cache *cache, const uint8_t *name);
void kl_cache_free(struct kl_cache *cache);

#endif
