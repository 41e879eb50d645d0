/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The beginning of a query: joined to one that is on, or made. */
#include "query.h"

#include <errno.h>
#include <string.h>

/* Letters in random case: as many bits to guess as the name has letters (0x20). */
static int randomize_case(struct kl_query *query)
{
	uint8_t bits[(KL_NAME_BYTES + 7) / 8];
	int ret;

	memcpy(query->cased, query->name, query->name_bytes);
	if (query->resolver->options.flags & KLOOP_RESOLVER_NO_CASE)
		return 0;
	ret = kl_random_fill(&query->resolver->random, bits, (query->name_bytes + 7u) / 8);
	if (ret < 0)
		return ret;
	kl_name_mix_case(query->cased, query->name_bytes, bits);
	return 0;
}

static struct kl_query *find(struct kloop_resolver *resolver, const struct kl_config *config,
			     const struct kl_query *like)
{
	struct kl_query *query = *kl_query_bucket(resolver, like->hash);

	for (; query; query = query->next) {
		bool all = true, open = false;

		if (query->hash != like->hash || query->config != config ||
		    query->flags != like->flags || query->name_bytes != like->name_bytes ||
		    query->pending == 0 ||
		    !kl_same_text(query->name, like->name, like->name_bytes))
			continue;
		/* What it has an answer to that is not kept would wait for its other question. */
		for (unsigned i = 0; i < like->count; i++) {
			const struct kl_question *question =
				kl_query_find(query, like->questions[i].type);

			all = all && question;
			open = open || (question && !question->done);
		}
		if (all && open)
			return query;
	}
	return NULL;
}

static void add_wait(struct kl_query *query, struct kl_wait *wait)
{
	if (!wait) {
		query->background = true;
		return;
	}
	wait->query = query;
	wait->next = query->waits;
	wait->link = &query->waits;
	if (wait->next)
		wait->next->link = &wait->next;
	query->waits = wait;
}

static struct kl_query *make(struct kloop_resolver *resolver, const struct kl_query *like)
{
	struct kl_query *query = kl_calloc(1, sizeof(*query) + 2 * (size_t)like->name_bytes);

	if (!query)
		return NULL;
	*query = *like;
	query->resolver = resolver;
	query->name = query->names;
	query->cased = query->names + like->name_bytes;
	memcpy(query->name, like->name, like->name_bytes);
	if (randomize_case(query) < 0) {
		kl_free(query);
		return NULL;
	}
	query->pending = query->count;
	kloop_timer_init(&query->timer, kl_query_expire);
	return query;
}

/* Is there an expired answer to fall back on? Then patience ends earlier. */
static bool find_stale(struct kl_query *query)
{
	struct kloop_resolver *resolver = query->resolver;
	bool all = resolver->options.stale_s != 0;

	for (unsigned i = 0; i < query->count && all; i++) {
		struct kl_key key = kl_query_key(query, &query->questions[i]);
		struct kl_answer *answer;

		all = kl_cache_find(&resolver->cache, &key, resolver->now_ns, &answer) != 0;
	}
	return all;
}

int kl_query_start(struct kloop_resolver *resolver, struct kl_config *config, const uint8_t *name,
		   size_t name_bytes, const uint16_t *types, unsigned count, unsigned flags,
		   struct kl_wait *wait)
{
	struct kl_query like = {
		.name = (uint8_t *)(uintptr_t)name,
		.name_bytes = (uint8_t)name_bytes,
		.count = count,
		.flags = flags,
		.hash = kl_hash(resolver->seed, name, name_bytes),
	};
	struct kl_query *query;

	for (unsigned i = 0; i < count; i++)
		like.questions[i].type = types[i];
	query = find(resolver, config, &like);
	if (query) {
		resolver->stats.joined++;
		add_wait(query, wait);
		return 0;
	}
	query = make(resolver, &like);
	if (!query)
		return -ENOMEM;
	query->config = kl_config_ref(config);
	query->next = *kl_query_bucket(resolver, query->hash);
	*kl_query_bucket(resolver, query->hash) = query;
	kl_servers_order(config, resolver->now_ns, query->order, &query->probe);
	query->has_stale = find_stale(query);
	add_wait(query, wait);
	resolver->stats.queries++;
	kl_query_launch(query);
	return 0;
}
