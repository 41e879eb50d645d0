/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What the tests of DNS over connections begin with: two servers by TLS whose
 * certificates are good, one in the clear, and a resolver without a cache and
 * without files, for which each test chooses servers.
 */
#ifndef KT_DNSFIXTURE_H
#define KT_DNSFIXTURE_H

#include "dnsstream.h"
#include "tlspair.h"

#include <string.h>

static const struct kt_record zone[] = {
	{ "www.test", "A", "192.0.2.1" },
	{ "www.test", "AAAA", "2001:db8::1" },
	{ "*.many.test", "A", "192.0.2.7" },
	{ "*.many.test", "AAAA", "2001:db8::7" },
	{ "one.test", "A", "192.0.2.11" },
	{ "two.test", "A", "192.0.2.22" },
};

static struct kloop_loop *loop;
static struct kt_dot first, second;
static struct kt_dns clear; /* over UDP and TCP, without TLS */
static struct kloop_resolver *resolver;
static struct kloop_resolver_options *options;

#define STAT(field) (kt_resolver_stats(resolver).field)

/* On a loop which the caller has made. */
static inline void set_up_on_loop(void)
{
	kt_dot_open(&first, loop, zone, KT_COUNT(zone), KT_CERT_SERVER);
	kt_dot_open(&second, loop, zone, KT_COUNT(zone), KT_CERT_SERVER);
	kt_dns_open(&clear, loop, zone, KT_COUNT(zone), true);
	options = kt_resolver_options(NULL, NULL, 0);
	kloop_resolver_options_set_flags(options, KLOOP_RESOLVER_NO_ENVIRONMENT |
							  KLOOP_RESOLVER_NO_CACHE);
	resolver = NULL;
}

static inline void set_up(void)
{
	loop = kt_loop_new(NULL);
	set_up_on_loop();
}

static inline void tear_down(void)
{
	kloop_resolver_close(resolver);
	kloop_resolver_options_free(options);
	kt_dot_close(&first);
	kt_dot_close(&second);
	kt_dns_close(&clear);
	kt_loop_free(loop);
}

static inline void use(void)
{
	resolver = kt_resolver_new(loop, options);
	options = NULL;
}

/* Trust the tests' CA. */
static inline void trust(void)
{
	struct kloop_tls_context *context = kt_tls_client(KT_CERT_CA);

	kloop_resolver_options_set_tls_context(options, context);
	kloop_tls_context_unref(context);
}

static inline void add(const struct kt_dot *server, const char *name, unsigned flags)
{
	struct kloop_address address = kt_dot_address(server);

	ck_assert_int_eq(kloop_resolver_options_add_tls_server(options, &address, name, flags), 0);
}

static inline void add_clear(void)
{
	struct kloop_address address = kt_dns_address(&clear);

	ck_assert_int_eq(kloop_resolver_options_add_server(options, &address, KLOOP_DNS_UDP), 0);
}

/* One strict server, whose certificate is good. */
static inline void use_first(void)
{
	trust();
	add(&first, NULL, 0);
	use();
}

static inline void reopen(struct kt_dot *server, enum kt_cert certificate)
{
	kt_dot_close(server);
	kt_dot_open(server, loop, zone, KT_COUNT(zone), certificate);
}

static inline const char *resolve(const char *name)
{
	return kt_resolve(loop, resolver, name, AF_UNSPEC);
}

static inline struct kloop_dns_server_info info_of(unsigned position)
{
	struct kloop_dns_server_info info;

	ck_assert_int_eq(kloop_resolver_get_server(resolver, position, &info, sizeof(info)), 0);
	return info;
}

/* The order of the two families depends on the machine. */
static inline void check_found(const char *name, const char *ip4, const char *ip6)
{
	const char *found = resolve(name);

	ck_assert_msg(strstr(found, ip4) && strstr(found, ip6), "%s: %s", name, found);
}

static inline void check_www(void)
{
	check_found("www.test", "192.0.2.1", "2001:db8::1");
}

#endif
