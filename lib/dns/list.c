/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The list of addresses that is handed out: one allocation, in the order to be tried. */
#include "gai.h"

#include <errno.h>
#include <string.h>

/* An entry with the address that it points to. */
struct entry {
	struct addrinfo info;
	union {
		struct sockaddr any;
		struct sockaddr_in ip4;
		struct sockaddr_in6 ip6;
	} address;
};

struct list {
	struct kloop_addresses public;
	struct entry entries[];
};

static void fill(struct entry *entry, const struct kl_found_address *found,
		 const struct kl_socktype *type)
{
	memset(entry, 0, sizeof(*entry));
	entry->info.ai_family = found->family;
	entry->info.ai_socktype = type->type;
	entry->info.ai_protocol = type->protocol;
	entry->info.ai_addr = &entry->address.any;
	if (found->family == AF_INET) {
		entry->info.ai_addrlen = sizeof(entry->address.ip4);
		entry->address.ip4.sin_family = AF_INET;
		entry->address.ip4.sin_port = type->port;
		memcpy(&entry->address.ip4.sin_addr, found->address, 4);
	} else {
		entry->info.ai_addrlen = sizeof(entry->address.ip6);
		entry->address.ip6.sin6_family = AF_INET6;
		entry->address.ip6.sin6_port = type->port;
		entry->address.ip6.sin6_scope_id = found->scope_id;
		memcpy(&entry->address.ip6.sin6_addr, found->address, 16);
	}
}

/* Without a name there is none to tell, and a dot at the end is not part of it. */
static const char *canonical_of(const struct kl_finder *finder, size_t *ret_bytes)
{
	const char *text = finder->canonical ? finder->canonical : finder->request->node;

	*ret_bytes = 0;
	if (!(finder->request->flags & AI_CANONNAME) || !finder->request->has_node)
		return NULL;
	*ret_bytes = strlen(text);
	return text;
}

int kl_finder_list(const struct kl_finder *finder, int family,
		   struct kloop_addresses **ret_addresses)
{
	size_t count = 0, at = 0, name_bytes;
	const char *name = canonical_of(finder, &name_bytes);
	struct list *list;

	if (family == AF_UNSPEC)
		kl_order(&finder->resolver->routes, &finder->config->gai, finder->found,
			 finder->count);
	for (size_t i = 0; i < finder->count; i++)
		count += family == AF_UNSPEC || finder->found[i].family == family;
	count *= finder->socktype_count;
	list = kl_malloc(sizeof(*list) + count * sizeof(list->entries[0]) + name_bytes + 1);
	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < finder->count; i++) {
		if (family != AF_UNSPEC && finder->found[i].family != family)
			continue;
		for (unsigned j = 0; j < finder->socktype_count; j++) {
			fill(&list->entries[at], &finder->found[i], &finder->socktypes[j]);
			list->entries[at].info.ai_flags = finder->request->flags;
			if (at != 0)
				list->entries[at - 1].info.ai_next = &list->entries[at].info;
			at++;
		}
	}
	list->public.count = count;
	list->public.first = count != 0 ? &list->entries[0].info : NULL;
	list->public.ttl_s = finder->ttl_s != UINT32_MAX ? finder->ttl_s : 0;
	list->public.flags = finder->flags;
	if (name && count != 0) {
		char *copy = (char *)&list->entries[count];

		memcpy(copy, name, name_bytes);
		copy[name_bytes] = '\0';
		list->entries[0].info.ai_canonname = copy;
	}
	*ret_addresses = &list->public;
	return 0;
}

void kloop_addresses_free(struct kloop_addresses *addresses)
{
	if (addresses)
		kl_free(kl_container_of(addresses, struct list, public));
}
