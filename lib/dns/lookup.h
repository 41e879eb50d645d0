/* SPDX-License-Identifier: MulanPSL-2.0 */
/* What the three kinds of lookups share: their way from the call to the completion. */
#ifndef KL_DNS_LOOKUP_H
#define KL_DNS_LOOKUP_H

#include "resolver.h"

struct kl_lookup;

struct kl_lookup_kind {
	/* The configuration is there: begin. May finish at once. */
	void (*start)(struct kl_lookup *lookup);
	/* Let go of queries. Called before the end, once. */
	void (*stop)(struct kl_lookup *lookup);
	/* Call the user's function with the result. Not for the loop's own struct any more. */
	void (*deliver)(struct kl_lookup *lookup, struct kloop_lookup *user);
	/* Free what the lookup has, and itself. */
	void (*free)(struct kl_lookup *lookup);
	/* Something to tell before the end? Calls the user, once; false if there is nothing. */
	bool (*tell)(struct kl_lookup *lookup, struct kloop_lookup *user);
};

struct kl_lookup {
	const struct kl_lookup_kind *kind;
	struct kloop_resolver *resolver;
	struct kloop_lookup *user;
	struct kl_config *config;
	struct kl_lookup *next; /* in lookups */
	struct kl_lookup **link;
	struct kl_lookup *next_configless;
	struct kl_lookup *next_done;
	int result;
	bool started;
	bool ended;  /* has a result */
	bool queued; /* for delivery */
};

/* Begin: from here on it completes. */
void kl_lookup_begin(struct kl_lookup *lookup, const struct kl_lookup_kind *kind,
		     struct kloop_resolver *resolver, struct kloop_lookup *user);
/* It has its result; the first one counts. */
void kl_lookup_end(struct kl_lookup *lookup, int result);
/* It has something to tell. */
void kl_lookup_queue(struct kl_lookup *lookup);
/* Deliver all that is queued. */
void kl_lookups_deliver(struct kloop_resolver *resolver);
/* End all with -ECANCELED. */
void kl_lookups_cancel(struct kloop_resolver *resolver);

#endif
