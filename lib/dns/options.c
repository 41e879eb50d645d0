/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "resolver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#define DAY_S 86400u

const struct kloop_resolver_options kl_resolver_defaults = {
	.cache_bytes = (size_t)4 << 20,
	.max_ttl_s = 3600,
	.max_negative_ttl_s = 300,
	.max_queries = 256,
	.check_ns = 1000000000,
	.idle_ns = UINT64_C(10000000000),
};

int kloop_resolver_options_new(struct kloop_resolver_options **ret_options)
{
	struct kloop_resolver_options *options;

	if (!ret_options)
		return -EINVAL;
	options = kl_malloc(sizeof(*options));
	if (!options)
		return -ENOMEM;
	*options = kl_resolver_defaults;
	*ret_options = options;
	return 0;
}

void kl_resolver_clear_options(struct kloop_resolver_options *options)
{
	for (int i = 0; i < KL_FILES; i++) {
		kl_free(options->paths[i]);
		options->paths[i] = NULL;
	}
	for (unsigned i = 0; i < options->server_count; i++) {
		kl_free(options->servers[i].name);
		options->servers[i].name = NULL;
	}
	kloop_tls_context_unref(options->tls_context);
	options->tls_context = NULL;
}

void kloop_resolver_options_free(struct kloop_resolver_options *options)
{
	if (options)
		kl_resolver_clear_options(options);
	kl_free(options);
}

static char *copy_text(const char *text)
{
	char *copy = kl_malloc(strlen(text) + 1);

	return copy ? strcpy(copy, text) : NULL;
}

int kl_resolver_copy_options(const struct kloop_resolver_options *from,
			     struct kloop_resolver_options *ret_to)
{
	bool copied = true;

	*ret_to = *from;
	if (from->tls_context)
		kloop_tls_context_ref(from->tls_context);
	for (int i = 0; i < KL_FILES; i++) {
		ret_to->paths[i] = from->paths[i] ? copy_text(from->paths[i]) : NULL;
		copied = copied && (ret_to->paths[i] || !from->paths[i]);
	}
	for (unsigned i = 0; i < from->server_count; i++) {
		const char *name = from->servers[i].name;

		ret_to->servers[i].name = name ? copy_text(name) : NULL;
		copied = copied && (ret_to->servers[i].name || !name);
	}
	if (!copied)
		kl_resolver_clear_options(ret_to);
	return copied ? 0 : -ENOMEM;
}

/* A copy with its port, without what stands around it: servers are compared as bytes. */
static int copy_address(const struct kloop_address *address, uint16_t port,
			struct kloop_address *ret_copy)
{
	memset(ret_copy, 0, sizeof(*ret_copy));
	if (address->length >= sizeof(ret_copy->u.ip4) && address->u.any.sa_family == AF_INET) {
		ret_copy->length = sizeof(ret_copy->u.ip4);
		ret_copy->u.ip4 = address->u.ip4;
		if (ret_copy->u.ip4.sin_port == 0)
			ret_copy->u.ip4.sin_port = htons(port);
		return 0;
	}
	if (address->length >= sizeof(ret_copy->u.ip6) && address->u.any.sa_family == AF_INET6) {
		ret_copy->length = sizeof(ret_copy->u.ip6);
		ret_copy->u.ip6 = address->u.ip6;
		if (ret_copy->u.ip6.sin6_port == 0)
			ret_copy->u.ip6.sin6_port = htons(port);
		return 0;
	}
	return -EINVAL;
}

static int add_server(struct kloop_resolver_options *options, const struct kloop_address *address,
		      unsigned transport, const char *name, unsigned flags)
{
	struct kl_server_choice *choice;

	if (!options || !address || transport > KLOOP_DNS_TLS)
		return -EINVAL;
	if (options->server_count == KL_SERVERS_MAX)
		return -ENOSPC;
	choice = &options->servers[options->server_count];
	*choice = (struct kl_server_choice){ .transport = transport, .tls_flags = flags };
	if (copy_address(address, transport == KLOOP_DNS_TLS ? 853 : 53, &choice->address) < 0)
		return -EINVAL;
	choice->name = name ? copy_text(name) : NULL;
	if (name && !choice->name)
		return -ENOMEM;
	options->server_count++;
	return 0;
}

int kloop_resolver_options_add_server(struct kloop_resolver_options *options,
				      const struct kloop_address *address, unsigned transport)
{
	return add_server(options, address, transport, NULL, 0);
}

/* What a certificate can be for: a host's name, or an address. */
static bool is_tls_name(const char *name)
{
	uint8_t wire[KL_NAME_BYTES], address[16];

	if (inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1)
		return true;
	return kl_name_parse(name, strlen(name), false, wire) > 1 && kl_name_is_host(wire);
}

int kloop_resolver_options_add_tls_server(struct kloop_resolver_options *options,
					  const struct kloop_address *address, const char *name,
					  unsigned flags)
{
	if ((flags & ~(unsigned)KLOOP_DNS_TLS_OPPORTUNISTIC) || (name && !is_tls_name(name)))
		return -EINVAL;
	return add_server(options, address, KLOOP_DNS_TLS, name, flags);
}

void kloop_resolver_options_set_tls_context(struct kloop_resolver_options *options,
					    struct kloop_tls_context *context)
{
	if (!options)
		return;
	if (context)
		kloop_tls_context_ref(context);
	kloop_tls_context_unref(options->tls_context);
	options->tls_context = context;
}

void kloop_resolver_options_set_idle_timeout(struct kloop_resolver_options *options,
					     uint64_t idle_ns)
{
	if (options)
		options->idle_ns = idle_ns;
}

int kloop_resolver_options_set_file(struct kloop_resolver_options *options, unsigned file,
				    const char *path)
{
	char *copy;

	if (!options || file >= KL_FILES || !path || (*path != '\0' && *path != '/'))
		return -EINVAL;
	if (strlen(path) >= PATH_MAX)
		return -ENAMETOOLONG;
	copy = copy_text(path);
	if (!copy)
		return -ENOMEM;
	kl_free(options->paths[file]);
	options->paths[file] = copy;
	return 0;
}

int kloop_resolver_options_set_timeout(struct kloop_resolver_options *options, uint64_t timeout_ns,
				       unsigned attempts)
{
	if (!options || attempts > 5 ||
	    (timeout_ns != 0 && (timeout_ns < 1000000 || timeout_ns > UINT64_C(30000000000))))
		return -EINVAL;
	options->timeout_ns = timeout_ns;
	options->attempts = attempts;
	return 0;
}

int kloop_resolver_options_set_cache(struct kloop_resolver_options *options, size_t max_bytes,
				     unsigned max_ttl_s, unsigned max_negative_ttl_s,
				     unsigned stale_s)
{
	if (!options || max_bytes > (size_t)1 << 30 || max_ttl_s > DAY_S ||
	    max_negative_ttl_s > DAY_S || stale_s > DAY_S)
		return -EINVAL;
	options->cache_bytes = max_bytes;
	options->max_ttl_s = max_ttl_s;
	options->max_negative_ttl_s = max_negative_ttl_s;
	options->stale_s = stale_s;
	return 0;
}

int kloop_resolver_options_set_max_queries(struct kloop_resolver_options *options,
					   unsigned max_queries)
{
	if (!options || max_queries < 1 || max_queries > 65536)
		return -EINVAL;
	options->max_queries = max_queries;
	return 0;
}

void kloop_resolver_options_set_check(struct kloop_resolver_options *options, uint64_t check_ns)
{
	if (options)
		options->check_ns = check_ns;
}

void kloop_resolver_options_set_flags(struct kloop_resolver_options *options, unsigned flags)
{
	if (options)
		options->flags = flags;
}
