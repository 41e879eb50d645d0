/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Inside of the resolver: its struct, and what its files share.
 *
 * Functions of the user are called from one place only, the resolver's defer at
 * the start of a turn: nothing that is half done is on the stack then, so they
 * may start, cancel and close what they like.
 */
#ifndef KL_DNS_RESOLVER_H
#define KL_DNS_RESOLVER_H

#include <kloop/dns.h>
#include <kloop/tls.h>

#include "cache.h"
#include "config.h"
#include "order.h"
#include "random.h"
#include "ring/ring.h"
#include "server.h"

/* What a datagram may have: larger ones count as truncated. */
#define KL_DATAGRAM_BYTES 4096
#define KL_EDNS_BYTES 1232
#define KL_QUERY_BUCKETS 1024
/* Sockets kept for the next query, of each family. */
#define KL_IDLE_SOCKETS 128

struct kl_flight;
struct kl_loader;
struct kl_lookup;
struct kl_query;

struct kloop_resolver_options {
	struct kl_server_choice servers[KL_SERVERS_MAX];
	unsigned server_count;
	struct kloop_tls_context *tls_context; /* NULL: trust whom the system trusts */
	uint64_t idle_ns;
	char *paths[KL_FILES]; /* NULL: the usual one */
	uint64_t timeout_ns;
	unsigned attempts;
	size_t cache_bytes;
	unsigned max_ttl_s;
	unsigned max_negative_ttl_s;
	unsigned stale_s;
	unsigned max_queries;
	uint64_t check_ns;
	unsigned flags;
};

struct kl_idle_sockets {
	int fds[KL_IDLE_SOCKETS];
	unsigned count;
};

struct kloop_resolver {
	struct kloop_loop *loop;
	struct kloop_resolver_options options;
	struct kl_config *config; /* NULL: not read yet */
	struct kl_loader *loader; /* looking at the files, or reading them; NULL */
	uint64_t checked_ns;      /* when the files were looked at last */
	bool reread;              /* by kloop_resolver_reload() */
	int load_error;

	uint64_t now_ns; /* of the event in progress: see kl_resolver_tick() */
	struct kl_random random;
	struct kl_cache cache;
	struct kl_routes routes;
	/* For servers that are authenticated, and for others; NULL if there are none. */
	struct kloop_tls_context *tls_contexts[2];

	struct kl_query *buckets[KL_QUERY_BUCKETS];
	uint64_t seed;
	struct kl_query *waiting; /* for their turn, the first one */
	struct kl_query **waiting_tail;
	size_t active;  /* queries that were let go */
	size_t flights; /* sockets in use */
	struct kl_idle_sockets idle[2]; /* IPv4, IPv6 */

	struct kl_lookup *lookups; /* all that are not delivered */
	struct kl_lookup *configless; /* of these, those that wait for the configuration */
	struct kl_lookup **configless_tail;
	struct kl_lookup *done; /* to be delivered */
	struct kl_lookup **done_tail;
	struct kl_defer defer;
	struct kl_exit exit;
	bool exiting;
	bool failing; /* kl_queries_fail() is due */
	bool closing;
	bool delivering;
	bool let_go; /* the hold of its own is gone */
	unsigned holds; /* what the kernel or a stream still has of it */

	struct kloop_resolver_stats stats;
	uint8_t datagrams[2][KL_DATAGRAM_BYTES]; /* A and AAAA come together, mostly */
};

/* options.c */
extern const struct kloop_resolver_options kl_resolver_defaults;
int kl_resolver_copy_options(const struct kloop_resolver_options *from,
			     struct kloop_resolver_options *ret_to);
void kl_resolver_clear_options(struct kloop_resolver_options *options);

/* resolver.c */
/* 0 if a lookup may begin, or why not. */
int kl_resolver_check(const struct kloop_resolver *resolver);
/* One thing less has a hold on it; may free it. */
void kl_resolver_release(struct kloop_resolver *resolver);
/*
 * Look at the clock. To be called where something begins: a call of the user, a
 * timer, a completion. What follows from it happens at resolver->now_ns.
 */
static inline void kl_resolver_tick(struct kloop_resolver *resolver)
{
	resolver->now_ns = kloop_now();
}
/* Have what is done delivered at the start of the next turn. */
void kl_resolver_schedule(struct kloop_resolver *resolver);

/* load.c */
/*
 * Is there a configuration to go on with? If not, or if the files have not been
 * looked at for too long, a look begins, at whose end kl_lookups_configured()
 * is called. Without may_start nothing begins.
 */
bool kl_config_ready(struct kloop_resolver *resolver, bool may_start);
/* Give up a look in progress. */
void kl_loader_stop(struct kloop_resolver *resolver);

/* lookup.c */
void kl_lookups_configured(struct kloop_resolver *resolver);

#endif
