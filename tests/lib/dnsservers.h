/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What the tests of servers that misbehave begin with: two servers in the clear,
 * with the same zone, and a resolver with a cache and without files that asks the
 * first; hooks make of the servers what a test needs.
 */
#ifndef KT_DNSSERVERS_H
#define KT_DNSSERVERS_H

#include "dns.h"

#include <sys/socket.h>

static const struct kt_record zone[] = {
	{ "www.test", "A", "192.0.2.1" },
	{ "www.test", "AAAA", "2001:db8::1" },
	{ "text.test", "TXT", "hello" },
};

static struct kloop_loop *loop;
static struct kt_dns first, second;
static struct kloop_resolver *resolver;

#define STAT(field) (kt_resolver_stats(resolver).field)

static inline struct kloop_resolver_options *options_for(size_t servers)
{
	struct kt_dns *both[] = { &first, &second };

	return kt_resolver_options(NULL, both, servers);
}

static inline void use(struct kloop_resolver_options *options)
{
	kloop_resolver_close(resolver);
	resolver = kt_resolver_new(loop, options);
}

static inline void set_up(void)
{
	loop = kt_loop_new(NULL);
	kt_dns_open(&first, loop, zone, KT_COUNT(zone), true);
	kt_dns_open(&second, loop, zone, KT_COUNT(zone), true);
	resolver = NULL;
	use(options_for(1));
}

static inline void tear_down(void)
{
	kloop_resolver_close(resolver);
	kt_dns_close(&first);
	kt_dns_close(&second);
	kt_loop_free(loop);
}

static inline const char *resolve(const char *name)
{
	return kt_resolve(loop, resolver, name, AF_INET);
}

/* A hook: no records, and the code that data points to. */
static inline int say(struct kt_dns *server, const struct kt_question *question, uint8_t *wire)
{
	return kt_dns_empty(question, *(unsigned *)server->data, wire);
}

#endif
