/* SPDX-License-Identifier: MulanPSL-2.0 */
#include "order.h"

#include <kloop/loop.h>

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ring/memory.h"

/* Changes of this machine's addresses are noticed after so long. */
#define LOOK_NS UINT64_C(10000000)
/* And of the table of labels, of which nobody tells, after so long. */
#define SOURCES_NS UINT64_C(10000000000)

/* ---- addresses of this machine -------------------------------------------- */

#define GROUP(which) (1u << (RTNLGRP_##which - 1))
#define GROUPS                                                                                     \
	(GROUP(LINK) | GROUP(IPV4_IFADDR) | GROUP(IPV6_IFADDR) | GROUP(IPV4_ROUTE) |               \
	 GROUP(IPV6_ROUTE) | GROUP(IPV4_RULE) | GROUP(IPV6_RULE))

/* Have addresses changed, too, or only the ways to others? */
static bool tells_addresses(const char *buffer, size_t bytes)
{
	const struct nlmsghdr *header = (const struct nlmsghdr *)(const void *)buffer;
	unsigned left = (unsigned)bytes;

	for (; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
		if (header->nlmsg_type < RTM_NEWROUTE)
			return true; /* links and addresses have the lower numbers */
	}
	return false;
}

/*
 * Has anything changed since the last look? What did is no longer valid. A call
 * that never waits, now and then.
 */
static void look(struct kl_routes *routes)
{
	_Alignas(struct nlmsghdr) char buffer[8192];
	uint64_t now = kloop_now();
	ssize_t bytes;

	if (routes->valid && now - routes->looked_ns < LOOK_NS)
		return;
	routes->looked_ns = now;
	if (!routes->opened) {
		routes->opened = true;
		routes->monitor = kl_netlink_open(GROUPS);
	}
	if (routes->monitor < 0 || now - routes->sources_ns > SOURCES_NS)
		routes->sources_valid = false;
	if (routes->monitor < 0)
		routes->valid = false;
	for (int i = 0; i < 64 && routes->monitor >= 0; i++) {
		bytes = recv(routes->monitor, buffer, sizeof(buffer), MSG_DONTWAIT);
		if (bytes < 0 && errno != ENOBUFS)
			break;
		routes->sources_valid = false;
		if (bytes < 0 || tells_addresses(buffer, (size_t)bytes))
			routes->valid = false;
	}
}

static void add_local(struct kl_routes *routes, const struct ifaddrmsg *message, size_t bytes)
{
	const struct rtattr *attribute = IFA_RTA(message);
	const void *address = NULL;
	struct kl_local local = { .family = message->ifa_family, .index = message->ifa_index };
	unsigned flags = message->ifa_flags;
	int left = (int)bytes - (int)NLMSG_ALIGN(sizeof(*message));
	size_t size = message->ifa_family == AF_INET ? 4 : 16;
	struct in6_addr ip6;

	for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
		if (attribute->rta_type == IFA_LOCAL ||
		    (attribute->rta_type == IFA_ADDRESS && !address)) {
			if (RTA_PAYLOAD(attribute) >= size)
				address = RTA_DATA(attribute);
		} else if (attribute->rta_type == IFA_FLAGS && RTA_PAYLOAD(attribute) >= 4) {
			memcpy(&flags, RTA_DATA(attribute), 4);
		}
	}
	if (!address || (local.family != AF_INET && local.family != AF_INET6))
		return;
	local.deprecated = flags & IFA_F_DEPRECATED;
	local.temporary = flags & IFA_F_TEMPORARY;
	if (local.family == AF_INET) {
		memset(local.address + 10, 0xff, 2);
		memcpy(local.address + 12, address, 4);
		local.prefix = (uint8_t)(message->ifa_prefixlen);
		routes->has4 = routes->has4 || memcmp(address, "\x7f\0\0\1", 4) != 0;
	} else {
		memcpy(local.address, address, 16);
		local.prefix = message->ifa_prefixlen;
		ip6 = kl_ip6(address);
		routes->has6 = routes->has6 || !IN6_IS_ADDR_LOOPBACK(&ip6);
	}
	if (routes->count < KL_INTERFACES_MAX)
		routes->locals[routes->count++] = local;
}

/* True at the end of the dump. */
static bool take_dump(struct kl_routes *routes, const char *buffer, size_t bytes)
{
	const struct nlmsghdr *header = (const struct nlmsghdr *)(const void *)buffer;
	unsigned left = (unsigned)bytes;

	for (; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
		if (header->nlmsg_type == NLMSG_DONE || header->nlmsg_type == NLMSG_ERROR)
			return true;
		if (header->nlmsg_type == RTM_NEWADDR)
			add_local(routes, NLMSG_DATA(header), NLMSG_PAYLOAD(header, 0));
	}
	return false;
}

/* The kernel makes the dump while it is read: nothing here waits. False: not all of it came. */
static bool dump(struct kl_routes *routes)
{
	struct {
		struct nlmsghdr header;
		struct ifaddrmsg message;
	} request = {
		.header = { .nlmsg_len = NLMSG_LENGTH(sizeof(request.message)),
			    .nlmsg_type = RTM_GETADDR,
			    .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.message = { .ifa_family = AF_UNSPEC },
	};
	_Alignas(struct nlmsghdr) char buffer[32768];
	int fd = kl_netlink_open(0);
	bool complete = false;
	ssize_t bytes;

	if (fd < 0)
		return false;
	if (send(fd, &request, sizeof(request), MSG_DONTWAIT) == (ssize_t)sizeof(request)) {
		while (!complete && (bytes = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT)) > 0)
			complete = take_dump(routes, buffer, (size_t)bytes);
	}
	close(fd);
	return complete;
}

static int by_address(const void *a, const void *b)
{
	const struct kl_local *x = a, *y = b;

	return memcmp(x->address, y->address, sizeof(x->address));
}

static void refresh(struct kl_routes *routes)
{
	look(routes);
	if (routes->valid)
		return;
	routes->sources_valid = false;
	if (!routes->locals)
		routes->locals = kl_malloc(KL_INTERFACES_MAX * sizeof(*routes->locals));
	routes->count = 0;
	routes->has4 = routes->has6 = false;
	routes->valid = routes->locals && dump(routes);
	/* In a sandbox without netlink nothing is known, and nothing is ruled out. */
	if (!routes->valid)
		routes->has4 = routes->has6 = true;
	if (routes->count != 0)
		qsort(routes->locals, routes->count, sizeof(*routes->locals), by_address);
}

void kl_routes_init(struct kl_routes *routes)
{
	memset(routes, 0, sizeof(*routes));
	routes->monitor = routes->probes[0] = routes->probes[1] = -1;
}

void kl_routes_families(struct kl_routes *routes, bool *ret_has4, bool *ret_has6)
{
	refresh(routes);
	*ret_has4 = routes->has4;
	*ret_has6 = routes->has6;
}

void kl_routes_free(struct kl_routes *routes)
{
	const int fds[] = { routes->monitor, routes->probes[0], routes->probes[1] };

	for (int i = 0; i < 3; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
	kl_free(routes->locals);
	kl_free(routes->sources);
	kl_routes_init(routes);
}

/* ---- sources -------------------------------------------------------------- */

static void map4(const uint8_t ip4[4], uint8_t ret_address[16])
{
	memset(ret_address, 0, 10);
	memset(ret_address + 10, 0xff, 2);
	memcpy(ret_address + 12, ip4, 4);
}

/*
 * Whose packets to this address would be: what connect(2) says, which sends
 * nothing. False: the kernel did not get to say.
 */
static bool find_source(int fd, struct kl_found_address *found)
{
	const struct sockaddr none = { .sa_family = AF_UNSPEC };
	struct kloop_address to, from;

	memset(&to, 0, sizeof(to));
	if (found->family == AF_INET) {
		to.length = sizeof(to.u.ip4);
		to.u.ip4.sin_family = AF_INET;
		to.u.ip4.sin_port = htons(1); /* any will do */
		memcpy(&to.u.ip4.sin_addr, found->address, 4);
	} else {
		to.length = sizeof(to.u.ip6);
		to.u.ip6.sin6_family = AF_INET6;
		to.u.ip6.sin6_port = htons(1);
		to.u.ip6.sin6_scope_id = found->scope_id;
		memcpy(&to.u.ip6.sin6_addr, found->address, 16);
	}
	(void)connect(fd, &none, sizeof(none));
	from.length = sizeof(from.u);
	if (connect(fd, &to.u.any, to.length) < 0)
		return errno != ENOMEM && errno != ENOBUFS && errno != EAGAIN && errno != EINTR;
	if (getsockname(fd, &from.u.any, &from.length) < 0)
		return false;
	found->reachable = true;
	if (found->family == AF_INET)
		map4((const uint8_t *)&from.u.ip4.sin_addr, found->source);
	else
		memcpy(found->source, &from.u.ip6.sin6_addr, 16);
	return true;
}

static void find_local(const struct kl_routes *routes, struct kl_found_address *found)
{
	struct kl_local key = { .prefix = 0 };

	if (!found->reachable || routes->count == 0)
		return;
	memcpy(key.address, found->source, sizeof(key.address));
	found->local = bsearch(&key, routes->locals, routes->count, sizeof(key), by_address);
}

static bool is_loopback(const struct kl_found_address *found)
{
	const struct in6_addr ip6 = kl_ip6(found->address);

	if (found->family == AF_INET)
		return found->address[0] == IN_LOOPBACKNET;
	return IN6_IS_ADDR_LOOPBACK(&ip6);
}

/* What tells sources apart, if all of it is known. */
static struct kl_sources *get_sources(struct kl_routes *routes)
{
	if (routes->monitor < 0)
		return NULL;
	if (!routes->sources)
		routes->sources = kl_malloc(sizeof(*routes->sources));
	if (routes->sources_valid || !routes->sources)
		return routes->sources;
	kl_sources_load(routes->sources);
	for (unsigned i = 0; i < routes->count; i++) {
		if (routes->locals[i].family == AF_INET6)
			kl_sources_add_local(routes->sources, routes->locals[i].address);
	}
	/* Of more addresses than are kept nothing is known. */
	if (!routes->locals || routes->count == KL_INTERFACES_MAX)
		routes->sources->usable = false;
	routes->sources_valid = true;
	routes->sources_ns = kloop_now();
	return routes->sources;
}

static bool ask_kernel(struct kl_routes *routes, struct kl_found_address *found)
{
	int *fd = &routes->probes[found->family == AF_INET6];

	if (*fd < 0)
		*fd = socket(found->family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_IP);
	return *fd >= 0 && find_source(*fd, found);
}

static void probe(struct kl_routes *routes, struct kl_found_address *found)
{
	struct kl_source *slot = NULL;
	struct kl_sources *sources;
	uint8_t address[16];

	/* Without an address of the family there is no way to any other machine. */
	if (routes->valid && !(found->family == AF_INET ? routes->has4 : routes->has6) &&
	    !is_loopback(found))
		return;
	if (found->family == AF_INET)
		map4(found->address, address);
	else
		memcpy(address, found->address, sizeof(address));
	sources = found->scope_id == 0 ? get_sources(routes) : NULL;
	if (sources)
		slot = kl_sources_find(sources, address);
	if (!slot || slot->state == KL_SOURCE_UNKNOWN) {
		if (ask_kernel(routes, found) && slot)
			kl_sources_set(slot, address, found->reachable ? found->source : NULL);
	} else if (slot->state == KL_SOURCE_KNOWN) {
		found->reachable = true;
		memcpy(found->source, slot->address, sizeof(found->source));
	}
	find_local(routes, found);
}

/* ---- the rules ------------------------------------------------------------ */

/* What the rules compare, computed once for each address. */
struct ranked {
	struct kl_found_address found;
	int scope, source_scope;
	int label, source_label;
	int precedence;
	unsigned common; /* bits of the address that its source has as well */
};

/* gai.conf's scopes are for IPv4 itself, not for what is mapped for somebody else. */
static int scope_of(const struct kl_gai *gai, int family, const uint8_t address[16])
{
	const struct in6_addr ip6 = kl_ip6(address);

	if (family == AF_INET)
		return kl_prefixes_match(&gai->scopes4, address);
	if (IN6_IS_ADDR_MULTICAST(&ip6))
		return address[1] & 15;
	if (IN6_IS_ADDR_LINKLOCAL(&ip6) || IN6_IS_ADDR_LOOPBACK(&ip6))
		return 2;
	return IN6_IS_ADDR_SITELOCAL(&ip6) ? 5 : 14;
}

/* What can be said without knowing the source. */
static void rank(const struct kl_gai *gai, const struct kl_found_address *found,
		 struct ranked *ret_ranked)
{
	uint8_t address[16];

	if (found->family == AF_INET)
		map4(found->address, address);
	else
		memcpy(address, found->address, 16);
	ret_ranked->found = *found;
	ret_ranked->scope = scope_of(gai, found->family, address);
	ret_ranked->label = kl_prefixes_match(&gai->labels, address);
	ret_ranked->precedence = kl_prefixes_match(&gai->precedences, address);
	ret_ranked->source_scope = ret_ranked->source_label = -1;
	ret_ranked->common = 0;
}

/* And the rest, once it was looked for. */
static void rank_source(const struct kl_gai *gai, const struct kl_found_address *found,
			struct ranked *ranked)
{
	const uint8_t *source = found->source;
	uint8_t address[16];

	ranked->found = *found;
	if (!found->reachable)
		return;
	ranked->source_scope = scope_of(gai, found->family, source);
	ranked->source_label = kl_prefixes_match(&gai->labels, source);
	if (found->family == AF_INET6) {
		ranked->common = kl_common_bits(found->address, source);
	} else {
		/* With IPv4 it counts only inside the network of the source, if that is known. */
		unsigned prefix = found->local ? found->local->prefix : 32;
		unsigned common;

		map4(found->address, address);
		common = kl_common_bits(address, source) - 96;
		ranked->common = common >= prefix ? common : 0;
	}
}

/* Below 0: a before b. The rules of RFC 6724, section 6, as far as glibc has them. */
static int compare(const void *left, const void *right)
{
	const struct ranked *a = left, *b = right;
	const struct kl_local *x = a->found.local, *y = b->found.local;
	bool a_matches = a->scope == a->source_scope, b_matches = b->scope == b->source_scope;
	bool a_old = x && x->deprecated, b_old = y && y->deprecated;
	bool a_label = a->label == a->source_label, b_label = b->label == b->source_label;

	if (a->found.reachable != b->found.reachable)
		return a->found.reachable ? -1 : 1;
	if (a->found.reachable && a_matches != b_matches)
		return a_matches ? -1 : 1;
	if (a->found.reachable && a_old != b_old)
		return a_old ? 1 : -1;
	if (a->found.reachable && a_label != b_label)
		return a_label ? -1 : 1;
	if (a->precedence != b->precedence)
		return a->precedence > b->precedence ? -1 : 1;
	if (a->scope != b->scope)
		return a->scope < b->scope ? -1 : 1;
	if (a->found.reachable && a->found.family == b->found.family && a->common != b->common)
		return a->common > b->common ? -1 : 1;
	return a->found.position < b->found.position ? -1 : 1;
}

/*
 * Of two addresses: does the first come first whatever the source of the other
 * is? It does if each rule up to the precedences finds nothing against it, and
 * these are for it.
 */
static bool wins_alone(const struct ranked *a, const struct ranked *b)
{
	return a->found.reachable && a->scope == a->source_scope &&
	       !(a->found.local && a->found.local->deprecated) && a->label == a->source_label &&
	       a->precedence > b->precedence;
}

/* The most frequent case: an address of each family. One source is enough, mostly. */
static void order_two(struct kl_routes *routes, const struct kl_gai *gai,
		      struct kl_found_address *addresses)
{
	struct ranked ranked[2];
	unsigned first;

	rank(gai, &addresses[0], &ranked[0]);
	rank(gai, &addresses[1], &ranked[1]);
	first = ranked[1].precedence > ranked[0].precedence;
	probe(routes, &addresses[first]);
	rank_source(gai, &addresses[first], &ranked[first]);
	if (!wins_alone(&ranked[first], &ranked[!first])) {
		probe(routes, &addresses[!first]);
		rank_source(gai, &addresses[!first], &ranked[!first]);
		first = compare(&ranked[0], &ranked[1]) > 0;
	}
	addresses[0] = ranked[first].found;
	addresses[1] = ranked[!first].found;
}

void kl_order(struct kl_routes *routes, const struct kl_gai *gai,
	      struct kl_found_address *addresses, size_t count)
{
	struct ranked *ranked;

	for (size_t i = 0; i < count; i++) {
		addresses[i].position = (uint32_t)i;
		addresses[i].reachable = false;
		addresses[i].local = NULL;
	}
	if (count < 2)
		return;
	refresh(routes);
	if (count == 2) {
		order_two(routes, gai, addresses);
		return;
	}
	for (size_t i = 0; i < count && i < KL_SOURCES_MAX; i++)
		probe(routes, &addresses[i]);
	ranked = kl_malloc(count * sizeof(*ranked));
	if (!ranked)
		return; /* in the order of the answer */
	for (size_t i = 0; i < count; i++) {
		rank(gai, &addresses[i], &ranked[i]);
		rank_source(gai, &addresses[i], &ranked[i]);
	}
	qsort(ranked, count, sizeof(*ranked), compare);
	for (size_t i = 0; i < count; i++)
		addresses[i] = ranked[i].found;
	kl_free(ranked);
}
