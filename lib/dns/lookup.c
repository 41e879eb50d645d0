/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "lookup.h"

#include <errno.h>

#include "query.h"

static void free_lookup(struct kl_lookup *lookup)
{
	*lookup->link = lookup->next;
	if (lookup->next)
		lookup->next->link = lookup->link;
	kl_config_unref(lookup->config);
	lookup->kind->free(lookup);
}

static void start(struct kl_lookup *lookup)
{
	struct kloop_resolver *resolver = lookup->resolver;

	lookup->started = true;
	if (!resolver->config) {
		kl_lookup_end(lookup, resolver->load_error);
		return;
	}
	lookup->config = kl_config_ref(resolver->config);
	lookup->kind->start(lookup);
}

void kl_lookup_begin(struct kl_lookup *lookup, const struct kl_lookup_kind *kind,
		     struct kloop_resolver *resolver, struct kloop_lookup *user)
{
	kl_resolver_tick(resolver);
	lookup->kind = kind;
	lookup->resolver = resolver;
	lookup->user = user;
	user->state = lookup;
	lookup->next = resolver->lookups;
	lookup->link = &resolver->lookups;
	if (lookup->next)
		lookup->next->link = &lookup->next;
	resolver->lookups = lookup;
	resolver->stats.lookups++;
	if (kl_config_ready(resolver, true)) {
		start(lookup);
		return;
	}
	lookup->next_configless = NULL;
	*resolver->configless_tail = lookup;
	resolver->configless_tail = &lookup->next_configless;
}

void kl_lookups_configured(struct kloop_resolver *resolver)
{
	struct kl_lookup *lookup = resolver->configless;

	kl_resolver_tick(resolver);
	resolver->configless = NULL;
	resolver->configless_tail = &resolver->configless;
	while (lookup) {
		struct kl_lookup *next = lookup->next_configless;

		/* One that was cancelled meanwhile may be delivered before it gets here. */
		if (!lookup->ended)
			start(lookup);
		lookup = next;
	}
}

/* It waits for the configuration no more. */
static void unlink_configless(struct kl_lookup *lookup)
{
	struct kloop_resolver *resolver = lookup->resolver;
	struct kl_lookup **link = &resolver->configless;

	while (*link && *link != lookup)
		link = &(*link)->next_configless;
	if (!*link)
		return;
	*link = lookup->next_configless;
	if (!*link)
		resolver->configless_tail = link;
}

void kl_lookup_queue(struct kl_lookup *lookup)
{
	struct kloop_resolver *resolver = lookup->resolver;

	if (lookup->queued)
		return;
	lookup->queued = true;
	lookup->next_done = NULL;
	*resolver->done_tail = lookup;
	resolver->done_tail = &lookup->next_done;
	kl_resolver_schedule(resolver);
}

void kl_lookup_end(struct kl_lookup *lookup, int result)
{
	if (lookup->ended)
		return;
	if (!lookup->started)
		unlink_configless(lookup);
	lookup->started = true;
	lookup->ended = true;
	lookup->result = result;
	lookup->kind->stop(lookup);
	kl_lookup_queue(lookup);
}

/* Hand one out. What it tells first may make it end otherwise. */
static void deliver(struct kl_lookup *lookup)
{
	struct kloop_lookup *user = lookup->user;

	lookup->queued = false;
	while (lookup->kind->tell && lookup->result != -ECANCELED &&
	       lookup->kind->tell(lookup, user))
		;
	if (!lookup->ended || lookup->queued)
		return;
	user->state = NULL;
	kl_loop_note_call(lookup->resolver->loop);
	lookup->kind->deliver(lookup, user);
	free_lookup(lookup);
}

void kl_lookups_deliver(struct kloop_resolver *resolver)
{
	/* Those that end meanwhile have their turn in the next turn of the loop. */
	struct kl_lookup *last = NULL;

	if (!resolver->done)
		return;
	last = kl_container_of(resolver->done_tail, struct kl_lookup, next_done);
	for (;;) {
		struct kl_lookup *lookup = resolver->done;
		bool end = lookup == last;

		resolver->done = lookup->next_done;
		if (!resolver->done)
			resolver->done_tail = &resolver->done;
		deliver(lookup);
		if (end)
			return;
	}
}

void kl_lookups_cancel(struct kloop_resolver *resolver)
{
	for (struct kl_lookup *lookup = resolver->lookups; lookup; lookup = lookup->next) {
		kl_lookup_end(lookup, -ECANCELED);
		/* Also one that has a result which is not told yet. */
		lookup->result = -ECANCELED;
	}
}

int kloop_lookup_cancel(struct kloop_lookup *user)
{
	struct kl_lookup *lookup = user ? user->state : NULL;
	int ret;

	if (!user)
		return -EINVAL;
	if (!lookup)
		return -ENOENT;
	ret = kl_loop_check(lookup->resolver->loop);
	/* While the loop ends everything is being cancelled anyway. */
	if (ret < 0)
		return ret == -ESTALE ? 0 : ret;
	/* What waited for its turn may have it now. */
	kl_resolver_tick(lookup->resolver);
	kl_lookup_end(lookup, -ECANCELED);
	/* One that has a result which is not told yet takes this in its place. */
	lookup->result = -ECANCELED;
	return 0;
}
