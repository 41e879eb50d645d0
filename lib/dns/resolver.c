/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The resolver: its beginning, its end, its counters. */
#include "resolver.h"

#include <errno.h>
#include <string.h>

#include "lookup.h"
#include "query.h"

/* ---- the end ------------------------------------------------------------- */

static void free_resolver(struct kloop_resolver *resolver)
{
	if (!resolver->exiting)
		kl_loop_remove_exit(resolver->loop, &resolver->exit);
	kl_loop_drop_defer(resolver->loop, &resolver->defer);
	kloop_tls_context_unref(resolver->tls_contexts[0]);
	kloop_tls_context_unref(resolver->tls_contexts[1]);
	kl_resolver_clear_options(&resolver->options);
	kl_free(resolver);
}

void kl_resolver_release(struct kloop_resolver *resolver)
{
	if (--resolver->holds == 0)
		free_resolver(resolver);
}

void kl_resolver_schedule(struct kloop_resolver *resolver)
{
	/* While the loop ends no turn comes; the exit hook does what is left. */
	if (!kl_loop_is_closing(resolver->loop))
		kl_loop_defer(resolver->loop, &resolver->defer);
}

/* Give up all that is on. What the kernel still has keeps the memory. */
static void shut(struct kloop_resolver *resolver)
{
	resolver->closing = true;
	kl_loader_stop(resolver);
	kl_lookups_cancel(resolver);
	kl_queries_end(resolver);
	kl_tcp_retire(resolver->config);
	kl_udp_close_idle(resolver);
	kl_cache_free(&resolver->cache);
	kl_routes_free(&resolver->routes);
	kl_config_unref(resolver->config);
	resolver->config = NULL;
}

/* The resolver's own hold goes when all lookups are told. */
static void let_go(struct kloop_resolver *resolver)
{
	if (!resolver->closing || resolver->lookups || resolver->let_go)
		return;
	resolver->let_go = true;
	kl_resolver_release(resolver);
}

static void run(struct kl_defer *defer)
{
	struct kloop_resolver *resolver = kl_container_of(defer, struct kloop_resolver, defer);

	kl_resolver_tick(resolver);
	if (resolver->failing)
		kl_queries_fail(resolver);
	resolver->delivering = true;
	kl_lookups_deliver(resolver);
	resolver->delivering = false;
	let_go(resolver);
}

static void leave(struct kl_exit *hook)
{
	struct kloop_resolver *resolver = kl_container_of(hook, struct kloop_resolver, exit);

	resolver->exiting = true;
	if (!resolver->closing)
		shut(resolver);
	resolver->delivering = true;
	while (resolver->done)
		kl_lookups_deliver(resolver);
	let_go(resolver);
}

void kloop_resolver_close(struct kloop_resolver *resolver)
{
	if (!resolver || resolver->closing || kl_loop_check(resolver->loop) < 0)
		return;
	shut(resolver);
	if (!resolver->lookups && !resolver->delivering)
		kl_resolver_schedule(resolver);
}

/* ---- the beginning -------------------------------------------------------- */

static void init(struct kloop_resolver *resolver, struct kloop_loop *loop)
{
	resolver->loop = loop;
	resolver->holds = 1;
	resolver->defer.run = run;
	resolver->exit.run = leave;
	kl_routes_init(&resolver->routes);
	resolver->waiting_tail = &resolver->waiting;
	resolver->configless_tail = &resolver->configless;
	resolver->done_tail = &resolver->done;
	resolver->cache.max_bytes = resolver->options.cache_bytes;
	resolver->cache.stale_s = resolver->options.stale_s;
	resolver->cache.seed = resolver->seed;
	kl_loop_add_exit(loop, &resolver->exit);
}

/* A context for servers that are not authenticated: nobody is trusted, nobody asked. */
static int make_opportunistic(struct kloop_resolver *resolver)
{
	struct kloop_tls_context **context = &resolver->tls_contexts[1];
	int ret = kloop_tls_context_new(KLOOP_TLS_CLIENT, context);

	return ret < 0 ? ret : kloop_tls_context_set_verify(*context, KLOOP_TLS_VERIFY_NONE);
}

/*
 * A context that trusts as the user or the system says. A first session brings
 * its mistakes to light, and has the system's trust store read now, not in the
 * middle of a lookup.
 */
static int make_strict(struct kloop_resolver *resolver)
{
	struct kloop_tls_context **context = &resolver->tls_contexts[0];
	struct kloop_tls *session;
	int ret = 0;

	if (resolver->options.tls_context)
		*context = kloop_tls_context_ref(resolver->options.tls_context);
	else
		ret = kloop_tls_context_new(KLOOP_TLS_CLIENT, context);
	if (ret == 0)
		ret = kloop_tls_new(*context, &session);
	if (ret < 0)
		return ret;
	ret = kloop_tls_set_name(session, "127.0.0.1"); /* refused for a server's */
	kloop_tls_free(session);
	return ret;
}

static int make_contexts(struct kloop_resolver *resolver)
{
	unsigned wanted = 0;
	int ret = 0;

	for (unsigned i = 0; i < resolver->options.server_count; i++) {
		const struct kl_server_choice *choice = &resolver->options.servers[i];

		if (choice->transport == KLOOP_DNS_TLS)
			wanted |= choice->tls_flags & KLOOP_DNS_TLS_OPPORTUNISTIC ? 2 : 1;
	}
	if (wanted & 1)
		ret = make_strict(resolver);
	if (ret == 0 && (wanted & 2))
		ret = make_opportunistic(resolver);
	return ret;
}

int kloop_resolver_new(struct kloop_loop *loop, const struct kloop_resolver_options *options,
		       struct kloop_resolver **ret_resolver)
{
	struct kloop_resolver *resolver;
	int ret;

	if (!ret_resolver)
		return -EINVAL;
	ret = kl_loop_check(loop);
	if (ret < 0)
		return ret;
	resolver = kl_calloc(1, sizeof(*resolver));
	if (!resolver)
		return -ENOMEM;
	ret = kl_resolver_copy_options(options ? options : &kl_resolver_defaults,
				       &resolver->options);
	if (ret == 0)
		ret = kl_random_fill(&resolver->random, &resolver->seed, sizeof(resolver->seed));
	if (ret == 0)
		ret = make_contexts(resolver);
	if (ret < 0) {
		kloop_tls_context_unref(resolver->tls_contexts[0]);
		kloop_tls_context_unref(resolver->tls_contexts[1]);
		kl_resolver_clear_options(&resolver->options);
		kl_free(resolver);
		return ret;
	}
	init(resolver, loop);
	*ret_resolver = resolver;
	return 0;
}

int kl_resolver_check(const struct kloop_resolver *resolver)
{
	if (!resolver)
		return -EINVAL;
	if (resolver->closing)
		return -ESTALE;
	return kl_loop_check(resolver->loop);
}

/* ---- the rest ------------------------------------------------------------- */

int kloop_resolver_reload(struct kloop_resolver *resolver)
{
	int ret = kl_resolver_check(resolver);

	if (ret < 0)
		return ret;
	kl_resolver_tick(resolver);
	resolver->reread = true;
	kl_cache_flush(&resolver->cache, NULL);
	/* One in progress may have read what was there before. */
	if (resolver->loader) {
		kl_loader_stop(resolver);
		if (resolver->configless && kl_config_ready(resolver, true))
			kl_lookups_configured(resolver);
	}
	return 0;
}

int kloop_resolver_flush(struct kloop_resolver *resolver, const char *name)
{
	uint8_t wire[KL_NAME_BYTES];
	int ret = kl_resolver_check(resolver);

	if (ret < 0)
		return ret;
	if (name && kl_name_parse(name, strlen(name), true, wire) < 0)
		return -EINVAL;
	return kl_cache_flush(&resolver->cache, name ? wire : NULL);
}

int kloop_resolver_get_stats(const struct kloop_resolver *resolver,
			     struct kloop_resolver_stats *ret_stats, size_t bytes)
{
	struct kloop_resolver_stats stats;

	if (!resolver || !ret_stats)
		return -EINVAL;
	stats = resolver->stats;
	stats.cache_entries = resolver->cache.entries;
	stats.cache_bytes = resolver->cache.bytes;
	stats.in_flight = resolver->active;
	memset(ret_stats, 0, bytes);
	memcpy(ret_stats, &stats, bytes < sizeof(stats) ? bytes : sizeof(stats));
	return 0;
}

int kloop_resolver_get_server(const struct kloop_resolver *resolver, unsigned position,
			      struct kloop_dns_server_info *ret_info, size_t bytes)
{
	struct kloop_dns_server_info info = { 0 };
	const struct kl_server *server;
	int ret = kl_resolver_check(resolver);

	if (ret < 0)
		return ret;
	if (!ret_info)
		return -EINVAL;
	if (!resolver->config)
		return -EAGAIN;
	if (position >= resolver->config->server_count)
		return -ENOENT;
	server = &resolver->config->servers[position];
	info.address = server->address;
	info.transport = server->transport;
	info.name = server->name;
	info.rtt_ns = server->rtt_ns;
	info.error = server->error;
	info.reason = server->reason;
	info.flags = (server->down_until_ns != 0 ? KLOOP_DNS_SERVER_DOWN : 0) |
		     kl_tcp_get_flags(server);
	memset(ret_info, 0, bytes);
	memcpy(ret_info, &info, bytes < sizeof(info) ? bytes : sizeof(info));
	return 0;
}

int kloop_dns_get_eai(int result)
{
	switch (result) {
	case 0:
		return 0;
	case KLOOP_ERROR_DNS_NONAME:
		return EAI_NONAME;
	case KLOOP_ERROR_DNS_NODATA:
		return EAI_NODATA;
	case KLOOP_ERROR_DNS_AGAIN:
	case KLOOP_ERROR_DNS_TIMEOUT:
	case KLOOP_ERROR_DNS_NSS:
	case KLOOP_ERROR_DNS_TLS:
		return EAI_AGAIN;
	case KLOOP_ERROR_DNS_FAIL:
		return EAI_FAIL;
	case KLOOP_ERROR_DNS_FLAGS:
		return EAI_BADFLAGS;
	case KLOOP_ERROR_DNS_FAMILY:
		return EAI_FAMILY;
	case KLOOP_ERROR_DNS_SOCKTYPE:
		return EAI_SOCKTYPE;
	case KLOOP_ERROR_DNS_SERVICE:
		return EAI_SERVICE;
	case KLOOP_ERROR_DNS_ADDRFAMILY:
		return EAI_ADDRFAMILY;
	case -ENOMEM:
		return EAI_MEMORY;
	case -ECANCELED:
		return EAI_CANCELED;
	default:
		return EAI_SYSTEM;
	}
}
