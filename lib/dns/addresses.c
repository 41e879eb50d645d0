/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Lookups for addresses. */
#include <errno.h>
#include <string.h>

#include "gai.h"
#include "lookup.h"
#include "query.h"

struct address_lookup {
	struct kl_lookup base;
	struct kl_wait wait;
	struct kl_request *request;
	struct kl_finder finder;
	kloop_addresses_fn *each; /* NULL: tell the end only */
	kloop_addresses_fn *complete;
	struct kloop_addresses *parts[2]; /* to be told: in this order */
	uint16_t told[2];                 /* types whose part was made */
	unsigned part_count;
	struct kloop_addresses *all;
};

static void go_on(struct address_lookup *lookup, int result);

/* ---- parts ------------------------------------------------------------------ */

static bool was_told(const struct address_lookup *lookup, unsigned type)
{
	return lookup->told[0] == type || lookup->told[1] == type;
}

static void add_part(struct address_lookup *lookup, unsigned type, struct kloop_addresses *part)
{
	if (!part || lookup->part_count == 2)
		return;
	lookup->told[lookup->part_count] = (uint16_t)type;
	lookup->parts[lookup->part_count++] = part;
	kl_lookup_queue(&lookup->base);
}

/* One family is there before the other. */
static void tell_early(struct address_lookup *lookup, const struct kl_question *question,
		       const struct kl_reply *reply)
{
	const struct kl_request *request = lookup->request;
	struct kloop_addresses *part = NULL;

	if (!lookup->each || reply->result != 0 || was_told(lookup, question->type) ||
	    request->family != AF_UNSPEC)
		return;
	if (kl_finder_peek(&lookup->finder, question->type, reply, &part) == 0)
		add_part(lookup, question->type, part);
}

/* What was not told early comes by family, in the order of the list. */
static int tell_rest(struct address_lookup *lookup)
{
	const struct addrinfo *at = lookup->all->first;
	int ret = 0;

	for (; lookup->each && at && ret == 0; at = at->ai_next) {
		unsigned type = at->ai_family == AF_INET ? KL_TYPE_A : KL_TYPE_AAAA;
		struct kloop_addresses *part = NULL;

		if (was_told(lookup, type))
			continue;
		ret = kl_finder_list(&lookup->finder, at->ai_family, &part);
		if (ret == 0)
			add_part(lookup, type, part);
	}
	return ret;
}

/* ---- the way of a lookup ------------------------------------------------------ */

static struct kl_reply reply_of(const struct kl_question *question)
{
	return (struct kl_reply){ .result = question->result,
				  .rcode = question->rcode,
				  .stale = question->stale,
				  .answer = question->answer };
}

static void notify(struct kl_wait *wait, struct kl_query *query)
{
	struct address_lookup *lookup = kl_container_of(wait, struct address_lookup, wait);
	struct kl_finder *finder = &lookup->finder;
	struct kl_reply replies[2];
	bool all = true;

	for (unsigned i = 0; i < finder->type_count; i++) {
		const struct kl_question *question = kl_query_find(query, finder->types[i]);

		all = all && question->done;
		if (!question->done)
			continue;
		replies[i] = reply_of(question);
		tell_early(lookup, question, &replies[i]);
	}
	if (!all)
		return;
	kl_wait_end(wait);
	go_on(lookup, kl_finder_feed(finder, replies));
}

static void ask(struct address_lookup *lookup)
{
	struct kl_finder *finder = &lookup->finder;
	int ret = kl_query_start(lookup->base.resolver, lookup->base.config, finder->name,
				 finder->name_bytes, finder->types, finder->type_count, 0,
				 &lookup->wait);

	if (ret < 0)
		kl_lookup_end(&lookup->base, ret);
}

static void go_on(struct address_lookup *lookup, int result)
{
	if (result == KL_FIND_ASK) {
		ask(lookup);
		return;
	}
	if (result == 0)
		result = kl_finder_list(&lookup->finder, AF_UNSPEC, &lookup->all);
	if (result == 0)
		result = tell_rest(lookup);
	kl_lookup_end(&lookup->base, result);
}

static void start(struct kl_lookup *base)
{
	struct address_lookup *lookup = kl_container_of(base, struct address_lookup, base);
	int ret = KLOOP_ERROR_DNS_NONAME; /* too long to be copied */

	if (lookup->request)
		ret = kl_finder_begin(&lookup->finder, base->resolver, base->config,
				      lookup->request);
	if (ret == 0)
		ret = kl_finder_run(&lookup->finder);
	if (ret != KL_FIND_ASK)
		base->resolver->stats.immediate++;
	go_on(lookup, ret);
}

static void stop(struct kl_lookup *base)
{
	kl_wait_end(&kl_container_of(base, struct address_lookup, base)->wait);
}

static bool tell(struct kl_lookup *base, struct kloop_lookup *user)
{
	struct address_lookup *lookup = kl_container_of(base, struct address_lookup, base);

	for (unsigned i = 0; i < lookup->part_count; i++) {
		struct kloop_addresses *part = lookup->parts[i];

		if (!part)
			continue;
		lookup->parts[i] = NULL;
		kl_loop_note_call(base->resolver->loop);
		lookup->each(user, 0, part);
		return true;
	}
	return false;
}

static void deliver(struct kl_lookup *base, struct kloop_lookup *user)
{
	struct address_lookup *lookup = kl_container_of(base, struct address_lookup, base);
	struct kloop_addresses *all = base->result == 0 ? lookup->all : NULL;

	if (all)
		lookup->all = NULL;
	lookup->complete(user, base->result, all);
}

static void free_lookup(struct kl_lookup *base)
{
	struct address_lookup *lookup = kl_container_of(base, struct address_lookup, base);

	kl_finder_end(&lookup->finder);
	kloop_addresses_free(lookup->parts[0]);
	kloop_addresses_free(lookup->parts[1]);
	kloop_addresses_free(lookup->all);
	kl_free(lookup->request);
	kl_free(lookup);
}

static const struct kl_lookup_kind kind = {
	.start = start,
	.stop = stop,
	.tell = tell,
	.deliver = deliver,
	.free = free_lookup,
};

/* ---- the calls ------------------------------------------------------------------ */

static int begin(struct kloop_resolver *resolver, struct kloop_lookup *user, const char *node,
		 const char *service, const struct addrinfo *hints, kloop_addresses_fn *each,
		 kloop_addresses_fn *complete)
{
	struct address_lookup *lookup;
	int ret = kl_resolver_check(resolver);

	if (ret < 0)
		return ret;
	if (!user || !complete)
		return -EINVAL;
	if (user->state)
		return -EBUSY;
	lookup = kl_malloc(sizeof(*lookup));
	if (!lookup)
		return -ENOMEM;
	memset(lookup, 0, offsetof(struct address_lookup, finder));
	memset(&lookup->each, 0, sizeof(*lookup) - offsetof(struct address_lookup, each));
	lookup->finder.found = NULL;
	lookup->finder.text = NULL;
	lookup->wait.notify = notify;
	lookup->each = each;
	lookup->complete = complete;
	lookup->request = NULL;
	ret = kl_request_new(node, service, hints, &lookup->request);
	if (ret == -ENOMEM) {
		kl_free(lookup);
		return ret;
	}
	kl_lookup_begin(&lookup->base, &kind, resolver, user);
	return 0;
}

int kloop_resolver_getaddrinfo(struct kloop_resolver *resolver, struct kloop_lookup *lookup,
			       const char *node, const char *service, const struct addrinfo *hints,
			       kloop_addresses_fn *complete)
{
	return begin(resolver, lookup, node, service, hints, NULL, complete);
}

int kloop_resolver_getaddrinfo_stream(struct kloop_resolver *resolver, struct kloop_lookup *lookup,
				      const char *node, const char *service,
				      const struct addrinfo *hints, kloop_addresses_fn *each,
				      kloop_addresses_fn *complete)
{
	if (!each)
		return -EINVAL;
	return begin(resolver, lookup, node, service, hints, each, complete);
}

int kloop_resolver_getaddrinfo_now(struct kloop_resolver *resolver, const char *node,
				   const char *service, const struct addrinfo *hints,
				   struct kloop_addresses **ret_addresses)
{
	uint64_t hits, misses;
	struct kl_request *request;
	struct kl_finder finder;
	int ret = kl_resolver_check(resolver);

	if (ret < 0)
		return ret;
	if (!ret_addresses)
		return -EINVAL;
	kl_resolver_tick(resolver);
	if (!kl_config_ready(resolver, false))
		return -EAGAIN;
	hits = resolver->stats.cache_hits;
	misses = resolver->stats.cache_misses;
	ret = kl_request_new(node, service, hints, &request);
	if (ret < 0)
		return ret;
	ret = kl_finder_begin(&finder, resolver, resolver->config, request);
	if (ret == 0)
		ret = kl_finder_run(&finder);
	if (ret == 0)
		ret = kl_finder_list(&finder, AF_UNSPEC, ret_addresses);
	if (ret == KL_FIND_ASK) {
		/* What the cache had is counted by the lookup that follows. */
		resolver->stats.cache_hits = hits;
		resolver->stats.cache_misses = misses;
	} else {
		resolver->stats.lookups++;
		resolver->stats.immediate++;
	}
	kl_finder_end(&finder);
	kl_free(request);
	return ret == KL_FIND_ASK ? -EAGAIN : ret;
}
