/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Lookups for names, as getnameinfo(3) of glibc. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "gai.h"
#include "ldns.h"
#include "lookup.h"
#include "query.h"

struct name_lookup {
	struct kl_lookup base;
	struct kl_wait wait;
	kloop_names_fn *complete;
	int flags;
	int family;
	const char *protocol; /* the service's */
	struct kloop_address address;
	unsigned module; /* of nsswitch.conf, the one in turn */
	char host[KLOOP_DNS_NAME_TEXT_BYTES];
	char service[64];
	uint8_t name[KL_NAME_BYTES + 1];
	size_t name_bytes;
};

static const void *raw_address(const struct name_lookup *lookup)
{
	return lookup->family == AF_INET ? (const void *)&lookup->address.u.ip4.sin_addr :
					   (const void *)&lookup->address.u.ip6.sin6_addr;
}

/* ---- results -------------------------------------------------------------------- */

static void numeric_host(struct name_lookup *lookup)
{
	const struct sockaddr_in6 *ip6 = &lookup->address.u.ip6;
	char interface[IF_NAMESIZE];
	size_t used;

	inet_ntop(lookup->family, raw_address(lookup), lookup->host, sizeof(lookup->host));
	if (lookup->family != AF_INET6 || ip6->sin6_scope_id == 0)
		return;
	used = strlen(lookup->host);
	if ((IN6_IS_ADDR_LINKLOCAL(&ip6->sin6_addr) || IN6_IS_ADDR_MC_LINKLOCAL(&ip6->sin6_addr)) &&
	    if_indextoname(ip6->sin6_scope_id, interface))
		snprintf(lookup->host + used, sizeof(lookup->host) - used, "%%%s", interface);
	else
		snprintf(lookup->host + used, sizeof(lookup->host) - used, "%%%u",
			 ip6->sin6_scope_id);
}

/* Names of this machine's domain go without it, if that is wanted. */
static void cut_domain(struct name_lookup *lookup)
{
	char own[256] = "";
	const char *dot;
	size_t domain, bytes = strlen(lookup->host);

	if (!(lookup->flags & NI_NOFQDN))
		return;
	(void)gethostname(own, sizeof(own) - 1);
	dot = strchr(own, '.');
	domain = dot ? strlen(dot) : 0;
	if (domain > 1 && bytes > domain &&
	    kl_same_text((const uint8_t *)lookup->host + bytes - domain, (const uint8_t *)dot,
			 domain))
		lookup->host[bytes - domain] = '\0';
}

static void find_service(struct name_lookup *lookup)
{
	unsigned port = kloop_address_get_port(&lookup->address);
	const char *name = NULL;

	if (!(lookup->flags & NI_NUMERICSERV))
		name = kl_services_reverse(&lookup->base.config->services, port,
					   lookup->protocol);
	if (name && strlen(name) < sizeof(lookup->service))
		strcpy(lookup->service, name);
	else
		snprintf(lookup->service, sizeof(lookup->service), "%u", port);
}

/* The name is known, or there is none, or it is not known whether there is one. */
static void finish(struct name_lookup *lookup, int result)
{
	if (result == KLOOP_ERROR_DNS_NONAME || result == KLOOP_ERROR_DNS_NODATA ||
	    result == KLOOP_ERROR_DNS_FAIL) {
		result = lookup->flags & NI_NAMEREQD ? KLOOP_ERROR_DNS_NONAME : 0;
		numeric_host(lookup);
	} else if (result == 0) {
		cut_domain(lookup);
	}
	if (result == 0)
		find_service(lookup);
	kl_lookup_end(&lookup->base, result);
}

/* ---- modules --------------------------------------------------------------------- */

static int take_answer(struct name_lookup *lookup, const struct kl_reply *reply)
{
	struct kl_answer_walk walk;
	uint8_t name[KL_NAME_BYTES + 1];
	const uint8_t *data;
	size_t bytes;

	if (reply->result != 0)
		return reply->result;
	kl_answer_begin(reply->answer, &walk);
	while ((data = kl_answer_next(reply->answer, &walk, &bytes))) {
		kl_scan_name(reply->answer->wire, reply->answer->bytes,
			     (size_t)(data - reply->answer->wire), name);
		/* Whoever owns the address writes this: only a host's name is handed on. */
		if (kl_name_is_host(name) &&
		    kloop_dns_name_format(name, sizeof(name), lookup->host,
					  sizeof(lookup->host)) > 0)
			return 0;
	}
	return KLOOP_ERROR_DNS_NONAME;
}

/* 0 found; 1 the network has to be asked; or why not. */
static int ask_dns(struct name_lookup *lookup)
{
	struct kl_reply reply;
	int bytes = kl_ldns_reverse(lookup->family, raw_address(lookup), lookup->name);

	if (bytes > 0 && lookup->family == AF_INET6 &&
	    IN6_IS_ADDR_V4MAPPED(&lookup->address.u.ip6.sin6_addr))
		bytes = kl_ldns_reverse(AF_INET, lookup->address.u.ip6.sin6_addr.s6_addr + 12,
					lookup->name);
	if (bytes < 0)
		return bytes;
	lookup->name_bytes = (size_t)bytes;
	if (kl_reply_cached(lookup->base.resolver, lookup->base.config, lookup->name,
			    lookup->name_bytes, KL_TYPE_PTR, 0, &reply))
		return take_answer(lookup, &reply);
	return 1;
}

static bool is_link_local(const struct name_lookup *lookup)
{
	if (lookup->family == AF_INET6)
		return IN6_IS_ADDR_LINKLOCAL(&lookup->address.u.ip6.sin6_addr);
	return ntohl(lookup->address.u.ip4.sin_addr.s_addr) >> 16 == 0xa9fe;
}

static int ask_module(struct name_lookup *lookup, unsigned module)
{
	const char *name;

	switch (module) {
	case KL_MODULE_FILES:
		name = kl_hosts_reverse(&lookup->base.config->hosts, lookup->family,
					raw_address(lookup));
		if (!name || strlen(name) >= sizeof(lookup->host))
			return KLOOP_ERROR_DNS_NONAME;
		strcpy(lookup->host, name);
		return 0;
	case KL_MODULE_DNS:
		return ask_dns(lookup);
	case KL_MODULE_MYHOSTNAME:
		return KLOOP_ERROR_DNS_NONAME;
	case KL_MODULE_MDNS:
		return is_link_local(lookup) ? KLOOP_ERROR_DNS_NSS : KLOOP_ERROR_DNS_NONAME;
	default:
		return KLOOP_ERROR_DNS_NSS;
	}
}

/* Does what the module before said end the search? */
static bool is_end(const struct name_lookup *lookup, int result)
{
	const struct kl_nsswitch *nsswitch = &lookup->base.config->nsswitch;
	unsigned status = KL_NSS_UNAVAIL;

	if (result == 0 || result == KLOOP_ERROR_DNS_NSS || result == -ENOMEM ||
	    lookup->module == nsswitch->count)
		return true;
	if (lookup->module == 0 || nsswitch->modules[lookup->module - 1].module == KL_MODULE_MDNS)
		return false;
	if (result == KLOOP_ERROR_DNS_NONAME || result == KLOOP_ERROR_DNS_NODATA)
		status = KL_NSS_NOTFOUND;
	else if (result == KLOOP_ERROR_DNS_AGAIN || result == KLOOP_ERROR_DNS_TIMEOUT ||
		 result == KLOOP_ERROR_DNS_TLS)
		status = KL_NSS_TRYAGAIN;
	return nsswitch->modules[lookup->module - 1].returns & 1u << status;
}

static void run(struct name_lookup *lookup, int result)
{
	const uint16_t type = KL_TYPE_PTR;

	while (!is_end(lookup, result)) {
		const struct kl_nsswitch *nsswitch = &lookup->base.config->nsswitch;

		result = ask_module(lookup, nsswitch->modules[lookup->module++].module);
		if (result != 1)
			continue;
		result = kl_query_start(lookup->base.resolver, lookup->base.config, lookup->name,
					lookup->name_bytes, &type, 1, 0, &lookup->wait);
		if (result < 0)
			break;
		return;
	}
	finish(lookup, result);
}

static void notify(struct kl_wait *wait, struct kl_query *query)
{
	struct name_lookup *lookup = kl_container_of(wait, struct name_lookup, wait);
	const struct kl_question *question = kl_query_find(query, KL_TYPE_PTR);
	struct kl_reply reply = { .result = question->result, .answer = question->answer };

	if (!question->done)
		return;
	kl_wait_end(wait);
	run(lookup, take_answer(lookup, &reply));
}

/* ---- the kind --------------------------------------------------------------------- */

static int check(const struct name_lookup *lookup)
{
	const int known = NI_NUMERICHOST | NI_NUMERICSERV | NI_NOFQDN | NI_NAMEREQD | NI_DGRAM |
			  NI_IDN | 0xc0;

	if (lookup->flags & ~known)
		return KLOOP_ERROR_DNS_FLAGS;
	return lookup->address.length == 0 ? KLOOP_ERROR_DNS_FAMILY : 0;
}

static void start(struct kl_lookup *base)
{
	struct name_lookup *lookup = kl_container_of(base, struct name_lookup, base);
	int ret = check(lookup);

	if (ret < 0) {
		kl_lookup_end(base, ret);
	} else if (lookup->flags & NI_NUMERICHOST) {
		/* glibc refuses only where both are asked for. */
		numeric_host(lookup);
		find_service(lookup);
		kl_lookup_end(base, lookup->flags & NI_NAMEREQD ? KLOOP_ERROR_DNS_NONAME : 0);
	} else {
		run(lookup, KLOOP_ERROR_DNS_NONAME);
	}
}

static void stop(struct kl_lookup *base)
{
	kl_wait_end(&kl_container_of(base, struct name_lookup, base)->wait);
}

static void deliver(struct kl_lookup *base, struct kloop_lookup *user)
{
	struct name_lookup *lookup = kl_container_of(base, struct name_lookup, base);

	lookup->complete(user, base->result, base->result == 0 ? lookup->host : NULL,
			 base->result == 0 ? lookup->service : NULL);
}

static void free_lookup(struct kl_lookup *base)
{
	kl_free(kl_container_of(base, struct name_lookup, base));
}

static const struct kl_lookup_kind kind = {
	.start = start,
	.stop = stop,
	.deliver = deliver,
	.free = free_lookup,
};

/* Copied as far as it is whole; a length of 0 tells that it is not. */
static void take_address(struct name_lookup *lookup, const struct sockaddr *address,
			 socklen_t length)
{
	sa_family_t family;

	if (length < sizeof(family))
		return;
	memcpy(&family, address, sizeof(family));
	if (family == AF_INET && length >= sizeof(struct sockaddr_in)) {
		memcpy(&lookup->address.u, address, sizeof(struct sockaddr_in));
		lookup->address.length = sizeof(struct sockaddr_in);
	} else if (family == AF_INET6 && length >= sizeof(struct sockaddr_in6)) {
		memcpy(&lookup->address.u, address, sizeof(struct sockaddr_in6));
		lookup->address.length = sizeof(struct sockaddr_in6);
	}
	lookup->family = family;
}

int kloop_resolver_getnameinfo(struct kloop_resolver *resolver, struct kloop_lookup *user,
			       const struct sockaddr *address, socklen_t length, int flags,
			       kloop_names_fn *complete)
{
	struct name_lookup *lookup;
	int ret = kl_resolver_check(resolver);

	if (ret < 0)
		return ret;
	if (!user || !address || !complete)
		return -EINVAL;
	if (user->state)
		return -EBUSY;
	lookup = kl_calloc(1, sizeof(*lookup));
	if (!lookup)
		return -ENOMEM;
	lookup->wait.notify = notify;
	lookup->complete = complete;
	lookup->flags = flags;
	lookup->protocol = flags & NI_DGRAM ? "udp" : "tcp";
	take_address(lookup, address, length);
	kl_lookup_begin(&lookup->base, &kind, resolver, user);
	return 0;
}
