/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "resolver.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#define DAY_S 86400u

const struct kloop_resolver_options kl_resolver_defaults = {
	.cache_bytes = (size_t)4 << 20,
	.max_ttl_s = 3600,
	.max_negative_ttl_s = 300,
	.max_queries = 1024,
	.check_ns = 1000000000,
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
	*ret_to = *from;
	memset(ret_to->paths, 0, sizeof(ret_to->paths));
	for (int i = 0; i < KL_FILES; i++) {
		if (!from->paths[i])
			continue;
		ret_to->paths[i] = copy_text(from->paths[i]);
		if (!ret_to->paths[i]) {
			kl_resolver_clear_options(ret_to);
			return -ENOMEM;
		}
	}
	return 0;
}

int kloop_resolver_options_add_server(struct kloop_resolver_options *options,
				      const struct kloop_address *address, unsigned transport)
{
	struct kloop_address copy;

	if (!options || !address || transport > KLOOP_DNS_TCP)
		return -EINVAL;
	memset(&copy, 0, sizeof(copy)); /* servers are compared as bytes */
	if (address->length >= sizeof(copy.u.ip4) && address->u.any.sa_family == AF_INET) {
		copy.length = sizeof(copy.u.ip4);
		copy.u.ip4 = address->u.ip4;
		if (copy.u.ip4.sin_port == 0)
			copy.u.ip4.sin_port = htons(53);
	} else if (address->length >= sizeof(copy.u.ip6) && address->u.any.sa_family == AF_INET6) {
		copy.length = sizeof(copy.u.ip6);
		copy.u.ip6 = address->u.ip6;
		if (copy.u.ip6.sin6_port == 0)
			copy.u.ip6.sin6_port = htons(53);
	} else {
		return -EINVAL;
	}
	if (options->server_count == KL_SERVERS_MAX)
		return -ENOSPC;
	options->servers[options->server_count] = copy;
	options->transports[options->server_count++] = transport;
	return 0;
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
